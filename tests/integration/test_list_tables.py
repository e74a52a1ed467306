"""`list_tables` on real catalogues: what is listed, folded, counted and left out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.app import Gateway
from gateway.errors import Forbidden, NotFound
from gateway.results import to_json
from tests.support.gateway import call, gateway_over, records
from tests.support.postgres import Pair

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def gateway(databases: Pair) -> AsyncIterator[Gateway]:
    async with gateway_over(databases) as running:
        yield running


def by_table(answer: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["table"]: row for row in records(answer)}


async def test_every_kind_is_listed_with_what_is_known_of_it(gateway: Gateway) -> None:
    answer = await call(gateway, "list_tables")

    tables = by_table(answer)
    assert answer["profile"] == "first"
    assert tables["orders"]["kind"] == "table"
    assert tables["orders"]["rows_estimate"] == 1000
    assert tables["orders"]["bytes_estimate"] > 8192
    assert tables["orders"]["comment"].startswith("One row per order")
    assert {row["kind"] for row in tables.values()} >= {"table", "partitioned table", "view", "materialized view"}
    assert answer["truncated"] is False


async def test_counts_per_kind_are_those_of_the_list(gateway: Gateway) -> None:
    answer = await call(gateway, "list_tables")

    kinds = [row["kind"] for row in records(answer)]
    assert answer["counts"] == {kind: kinds.count(kind) for kind in set(kinds)}


async def test_partitions_are_folded_into_their_parent(gateway: Gateway) -> None:
    tables = by_table(await call(gateway, "list_tables"))

    assert tables["events"]["partitions"] == 5
    assert tables["events"]["rows_estimate"] == 1500
    assert not [name for name in tables if name.startswith("events_2025")]


async def test_a_table_that_was_never_analyzed_has_no_estimate(own_databases: Pair) -> None:
    async with own_databases.first.connection() as connection:
        await connection.execute("CREATE TABLE fresh (a int) WITH (autovacuum_enabled = off)")

    async with gateway_over(own_databases) as gateway:
        tables = by_table(await call(gateway, "list_tables"))

    assert tables["fresh"]["rows_estimate"] is None


async def test_each_profile_lists_its_own_database(own_databases: Pair) -> None:
    async with own_databases.second.connection() as connection:
        await connection.execute("CREATE TABLE only_in_the_second (a int)")

    async with gateway_over(own_databases) as gateway:
        first = by_table(await call(gateway, "list_tables", profile="first"))
        second = by_table(await call(gateway, "list_tables", profile="second"))

    assert "only_in_the_second" not in first
    assert "only_in_the_second" in second


async def test_pages_follow_each_other_without_a_gap(gateway: Gateway) -> None:
    whole = await call(gateway, "list_tables")
    names = [row["table"] for row in records(whole)]

    read: list[str] = []
    offset: int | None = 0
    while offset is not None:
        page = await call(gateway, "list_tables", limit=4, offset=offset)
        read += [row["table"] for row in records(page)]
        assert page["truncated"] is ("next_offset" in page)
        offset = page.get("next_offset")

    assert read == names


@pytest.mark.parametrize(("missing", "truncated"), [(0, False), (1, True)])
async def test_truncated_is_exact_at_the_boundary(gateway: Gateway, missing: int, *, truncated: bool) -> None:
    number = (await call(gateway, "list_tables"))["row_count"]

    answer = await call(gateway, "list_tables", limit=number - missing)

    assert answer["truncated"] is truncated
    assert answer["row_count"] == number - missing


async def test_a_page_beyond_the_end_is_empty_and_not_truncated(gateway: Gateway) -> None:
    answer = await call(gateway, "list_tables", offset=10_000)
    assert (answer["rows"], answer["truncated"]) == ([], False)


async def test_a_table_made_after_the_last_count_still_makes_a_page_truncated(own_databases: Pair) -> None:
    async with gateway_over(own_databases) as gateway:
        number = (await call(gateway, "list_tables"))["row_count"]
        async with own_databases.first.connection() as connection:
            await connection.execute("CREATE TABLE zzz_new (a int)")

        answer = await call(gateway, "list_tables", limit=number)

    assert answer["truncated"] is True
    assert answer["next_offset"] == number


async def test_an_unknown_schema_names_those_that_exist(gateway: Gateway) -> None:
    with pytest.raises(NotFound) as caught:
        await call(gateway, "list_tables", schema="biling")

    assert "'biling'" in caught.value.message
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("Schemas that exist: billing, ")
    assert caught.value.profile == "first"


async def test_a_schema_that_the_profile_does_not_allow_is_neither_listed_nor_named(databases: Pair) -> None:
    async with gateway_over(databases, schemas=("public",)) as gateway:
        with pytest.raises(Forbidden):
            await call(gateway, "list_tables", schema="billing")
        assert (await call(gateway, "list_tables"))["row_count"] > 0
        with pytest.raises(NotFound) as caught:
            await call(gateway, "describe_table", table_name="invoicess", schema="public")

    assert "billing" not in str(caught.value.hint)


async def test_an_empty_schema_is_an_empty_list(own_databases: Pair) -> None:
    async with own_databases.first.connection() as connection:
        await connection.execute('CREATE SCHEMA "Empty ""one"""')

    async with gateway_over(own_databases) as gateway:
        answer = await call(gateway, "list_tables", schema='Empty "one"')

    assert (answer["rows"], answer["row_count"], answer["truncated"], answer["counts"]) == ([], 0, False, {})


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

    read = 0
    async with gateway_over(own_databases) as gateway:
        while True:
            answer = await call(gateway, "list_tables", schema="hostile", offset=read)
            assert len(to_json(answer)) <= 64 * 1024
            read += answer["row_count"]
            if not answer["truncated"]:
                break

    assert read == 200
