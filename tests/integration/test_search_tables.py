"""`search_tables` on real catalogues: what is found, and in which order."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.app import Gateway
from gateway.errors import Forbidden, InvalidArguments, NotFound
from gateway.results import to_json
from tests.support.gateway import call, gateway_over, records
from tests.support.postgres import Pair

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def gateway(databases: Pair) -> AsyncIterator[Gateway]:
    async with gateway_over(databases) as running:
        yield running


def places(answer: dict[str, Any]) -> list[tuple[str, str | None]]:
    return [(f"{row['schema']}.{row['table']}", row.get("column")) for row in records(answer)]


async def test_the_name_itself_comes_first_then_its_beginning_then_any_part(gateway: Gateway) -> None:
    found = places(await call(gateway, "search_tables", search_term="orders"))

    assert found[0] == ("public.orders", None)


async def test_columns_are_found_with_their_table(gateway: Gateway) -> None:
    found = places(await call(gateway, "search_tables", search_term="credit_limit"))

    assert ("public.customers", "credit_limit") in found


async def test_comments_are_searched_and_shown(gateway: Gateway) -> None:
    answer = await call(gateway, "search_tables", search_term="row-level security")

    assert [(row["table"], "row-level security" in row["comment"]) for row in records(answer)] == [
        ("customer_notes", True)
    ]


async def test_case_does_not_matter(gateway: Gateway) -> None:
    lower = await call(gateway, "search_tables", search_term="audit log")
    upper = await call(gateway, "search_tables", search_term="AUDIT LOG")

    assert lower == upper
    assert places(lower)[0] == ("public.Audit Log", None)


async def test_all_user_schemas_are_searched_or_the_one_that_is_named(gateway: Gateway) -> None:
    everywhere = {table for table, _ in places(await call(gateway, "search_tables", search_term="invoice"))}
    billing = {
        table for table, _ in places(await call(gateway, "search_tables", search_term="order", schema="billing"))
    }

    assert "billing.invoices" in everywhere
    assert all(table.startswith("billing.") for table in billing)
    assert billing


async def test_system_catalogues_are_searched_only_when_they_are_named(gateway: Gateway) -> None:
    assert places(await call(gateway, "search_tables", search_term="pg_class")) == []
    named = await call(gateway, "search_tables", search_term="pg_class", schema="pg_catalog")
    assert places(named)[0] == ("pg_catalog.pg_class", None)


async def test_partitions_are_not_listed_beside_their_parent(gateway: Gateway) -> None:
    found = {table for table, _ in places(await call(gateway, "search_tables", search_term="events"))}
    assert found == {"public.events"}


@pytest.mark.parametrize("term", ["%", "_", "\\", "'", '"', "a%b", "'; DROP TABLE orders; --"])
async def test_patterns_and_quotation_marks_are_ordinary_characters(own_databases: Pair, term: str) -> None:
    async with own_databases.first.connection() as connection:
        quoted = await connection.fetchval("SELECT quote_ident($1)", f"x{term}y")
        await connection.execute(f"CREATE SCHEMA odd; CREATE TABLE odd.{quoted} (a int)")

    async with gateway_over(own_databases) as gateway:
        answer = await call(gateway, "search_tables", search_term=term, schema="odd")

    assert places(answer) == [(f"odd.x{term}y", None)]


@pytest.mark.parametrize(("missing", "truncated"), [(0, False), (1, True)])
async def test_truncated_is_exact_at_the_boundary(gateway: Gateway, missing: int, *, truncated: bool) -> None:
    number = (await call(gateway, "search_tables", search_term="name"))["row_count"]

    answer = await call(gateway, "search_tables", search_term="name", limit=number - missing)

    assert (answer["row_count"], answer["truncated"]) == (number - missing, truncated)


async def test_nothing_found_says_what_to_try(gateway: Gateway) -> None:
    answer = await call(gateway, "search_tables", search_term="no such thing")

    assert answer["rows"] == []
    assert "shorter" in answer["hint"]


async def test_an_unknown_schema_is_an_error(gateway: Gateway) -> None:
    with pytest.raises(NotFound):
        await call(gateway, "search_tables", search_term="a", schema="nowhere")


async def test_an_empty_term_is_an_error(gateway: Gateway) -> None:
    with pytest.raises(InvalidArguments):
        await call(gateway, "search_tables", search_term="  ")


async def test_only_the_schemas_that_the_profile_allows_are_searched(databases: Pair) -> None:
    async with gateway_over(databases, schemas=("billing",)) as gateway:
        found = {table.split(".")[0] for table, _ in places(await call(gateway, "search_tables", search_term="o"))}
        with pytest.raises(Forbidden):
            await call(gateway, "search_tables", search_term="o", schema="public")

    assert found == {"billing"}


async def test_each_profile_searches_its_own_database(own_databases: Pair) -> None:
    async with own_databases.second.connection() as connection:
        await connection.execute("CREATE TABLE only_in_the_second (a int)")

    async with gateway_over(own_databases) as gateway:
        first = await call(gateway, "search_tables", search_term="only_in", profile="first")
        second = await call(gateway, "search_tables", search_term="only_in", profile="second")

    assert (places(first), places(second)) == ([], [("public.only_in_the_second", None)])


async def test_hostile_names_and_comments_stay_within_a_page(own_databases: Pair) -> None:
    async with own_databases.first.connection() as connection:
        await connection.execute(
            """CREATE SCHEMA hostile;
            DO $$ BEGIN FOR i IN 1..200 LOOP
              EXECUTE format('CREATE TABLE hostile.%I ()', repeat(chr(1), 56) || lpad(i::text, 4, '0'));
              EXECUTE format('COMMENT ON TABLE hostile.%I IS %L', repeat(chr(1), 56) || lpad(i::text, 4, '0'),
                repeat(chr(2), 500));
            END LOOP; END $$"""
        )

    async with gateway_over(own_databases) as gateway:
        answer = await call(gateway, "search_tables", search_term="\x02", limit=200)

    assert len(to_json(answer)) <= 64 * 1024
    assert answer["truncated"] is True
    assert answer["row_count"] == len(answer["rows"])
