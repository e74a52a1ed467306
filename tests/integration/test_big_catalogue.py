"""A schema with 10,000 tables: catalogue answers stay quick and small."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest

from gateway.app import Gateway
from gateway.errors import NotFound
from gateway.results import to_json
from tests.support.gateway import call, gateway_over, records
from tests.support.postgres import Servers

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

TABLES = 10_000
# Some tens of milliseconds are usual; the bound is for a machine that is busy.
QUICK_S = 2.0


@pytest.fixture(scope="session")
async def big(servers: Servers) -> AsyncIterator[Gateway]:
    """Make the tables once, in a database of their own."""
    async with servers.copy() as pair:
        async with pair.first.connection() as connection:
            await connection.execute("SET synchronous_commit = off")
            for start in range(1, TABLES + 1, 1000):
                # One transaction must not hold more locks than the server has room for.
                await connection.execute(
                    f"""DO $$ BEGIN FOR i IN {start}..{start + 999} LOOP
                      EXECUTE format('CREATE TABLE public.%I (id int, customer_name text)',
                        'table_' || lpad(i::text, 5, '0'));
                    END LOOP; END $$"""
                )
            await connection.execute("COMMENT ON TABLE table_04321 IS 'the needle'; ANALYZE pg_class, pg_attribute")
            await connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO gateway_reader")
        async with gateway_over(pair) as gateway:
            for name in ("first", "second"):
                await call(gateway, "execute_query", query="SELECT 1", profile=name)
            yield gateway


@pytest.fixture
def stopwatch() -> AsyncIterator[None]:  # type: ignore[misc] # a plain generator fixture
    started = time.monotonic()
    yield
    assert time.monotonic() - started < QUICK_S


@pytest.mark.usefixtures("stopwatch")
@pytest.mark.parametrize("offset", [0, 5000, 9900])
async def test_a_page_of_the_list_is_quick_wherever_it_is(big: Gateway, offset: int) -> None:
    answer = await call(big, "list_tables", offset=offset)

    assert answer["row_count"] == 200 if offset < 9900 else answer["row_count"] > 100
    assert answer["counts"]["table"] > TABLES
    assert len(to_json(answer)) <= 64 * 1024


@pytest.mark.usefixtures("stopwatch")
async def test_the_largest_page_still_fits(big: Gateway) -> None:
    answer = await call(big, "list_tables", limit=1000)

    assert answer["truncated"] is True
    assert answer["next_offset"] == answer["row_count"]
    assert len(to_json(answer)) <= 64 * 1024


@pytest.mark.usefixtures("stopwatch")
@pytest.mark.parametrize(
    ("term", "first"), [("table_04321", "table_04321"), ("needle", "table_04321"), ("customers", "customers")]
)
async def test_a_search_finds_the_one(big: Gateway, term: str, first: str) -> None:
    answer = await call(big, "search_tables", search_term=term)

    assert records(answer)[0]["table"] == first


@pytest.mark.usefixtures("stopwatch")
async def test_a_search_that_matches_every_column_is_bounded(big: Gateway) -> None:
    answer = await call(big, "search_tables", search_term="customer", limit=200)

    assert (answer["row_count"], answer["truncated"]) == (200, True)


@pytest.mark.usefixtures("stopwatch")
@pytest.mark.parametrize("tool", ["describe_table", "read_table", "get_table_stats"])
async def test_one_table_of_many_is_quick(big: Gateway, tool: str) -> None:
    assert (await call(big, tool, table_name="table_09999"))["table"].endswith("table_09999")


@pytest.mark.usefixtures("stopwatch")
async def test_a_misspelt_name_gets_its_neighbours(big: Gateway) -> None:
    with pytest.raises(NotFound) as caught:
        await call(big, "describe_table", table_name="custmers")

    assert "public.customers" in str(caught.value.hint)


async def test_the_other_profile_has_no_such_tables(big: Gateway) -> None:
    assert (await call(big, "search_tables", search_term="table_0", profile="second"))["rows"] == []
