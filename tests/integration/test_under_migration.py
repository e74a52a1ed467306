"""Beside a migration that holds ACCESS EXCLUSIVE on a table: what can be told is, the rest says why not."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

from gateway.app import Gateway
from gateway.errors import CallTimeout
from gateway.profiles import Limits
from tests.support.gateway import call, gateway_over, records
from tests.support.postgres import Pair, Servers

pytestmark = pytest.mark.anyio

AT_ONCE_S = 1.0
STATEMENT_S = 2.0
WITHIN_LOCK_TIMEOUT_S = STATEMENT_S + AT_ONCE_S


@dataclass(frozen=True)
class Migration:
    gateway: Gateway
    pair: Pair


@pytest.fixture(scope="module")
async def migration(servers: Servers) -> AsyncIterator[Migration]:
    """Hold `orders` in an open transaction that has added a column, with warm connections on the other side."""
    async with (
        servers.copy() as pair,
        pair.first.connection() as connection,
        gateway_over(pair, limits=Limits(statement_s=STATEMENT_S)) as gateway,
    ):
        for name in ("first", "second"):
            await call(gateway, "execute_query", query="SELECT 1", profile=name)
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("ALTER TABLE orders ADD COLUMN in_progress int")
        try:
            yield Migration(gateway, pair)
        finally:
            await transaction.rollback()


async def timed(gateway: Gateway, tool: str, **arguments: Any) -> tuple[dict[str, Any], float]:
    started = time.monotonic()
    answer = await call(gateway, tool, **arguments)
    return answer, time.monotonic() - started


async def test_the_list_answers_at_once_with_the_locked_table(migration: Migration) -> None:
    answer, seconds = await timed(migration.gateway, "list_tables")

    assert "orders" in [row["table"] for row in records(answer)]
    assert seconds < AT_ONCE_S


async def test_a_search_answers_at_once_with_the_locked_table(migration: Migration) -> None:
    answer, seconds = await timed(migration.gateway, "search_tables", search_term="orders")

    assert records(answer)[0]["table"] == "orders"
    assert seconds < AT_ONCE_S


async def test_the_columns_of_the_locked_table_are_told(migration: Migration) -> None:
    answer, seconds = await timed(migration.gateway, "describe_table", table_name="orders")

    assert [column["name"] for column in answer["columns"]][:2] == ["id", "customer_id"]
    assert "in_progress" not in [column["name"] for column in answer["columns"]]
    # Writing a default or a condition takes a lock.
    assert "migration" in answer["hint"]
    assert seconds < AT_ONCE_S


async def test_a_view_over_the_locked_table_is_told_without_its_definition(migration: Migration) -> None:
    answer, seconds = await timed(migration.gateway, "describe_table", table_name="customer_revenue")

    assert [column["name"] for column in answer["columns"]] == ["customer_id", "full_name", "orders", "revenue"]
    assert "definition" not in answer
    assert "migration" in answer["hint"]
    assert seconds < AT_ONCE_S


async def test_statistics_of_the_locked_table_are_estimates_and_say_so(migration: Migration) -> None:
    answer, seconds = await timed(migration.gateway, "get_table_stats", table_name="orders")

    assert answer["rows_estimate"] == 1000
    assert answer["bytes"]["is_estimate"] is True
    assert "migration" in answer["hint"]
    assert seconds < AT_ONCE_S


async def test_a_view_over_the_locked_table_is_not_counted_and_says_why(migration: Migration) -> None:
    answer, seconds = await timed(migration.gateway, "get_table_stats", table_name="customer_revenue")

    assert "rows" not in answer
    assert "migration" in answer["hint"]
    assert seconds < WITHIN_LOCK_TIMEOUT_S


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [("read_table", {"table_name": "orders"}), ("execute_query", {"query": "SELECT count(*) FROM orders"})],
    ids=["read_table", "execute_query"],
)
async def test_reading_the_locked_table_ends_in_a_timeout_that_names_the_lock(
    migration: Migration, tool: str, arguments: dict[str, Any]
) -> None:
    started = time.monotonic()
    with pytest.raises(CallTimeout) as caught:
        await call(migration.gateway, tool, **arguments)

    assert time.monotonic() - started < WITHIN_LOCK_TIMEOUT_S
    assert "locked" in str(caught.value.hint)


async def test_other_tables_and_the_other_profile_do_not_notice(migration: Migration) -> None:
    for arguments in ({"table_name": "customers"}, {"table_name": "orders", "profile": "second"}):
        for tool in ("describe_table", "read_table", "get_table_stats"):
            _, seconds = await timed(migration.gateway, tool, **arguments)
            assert seconds < AT_ONCE_S


async def test_the_migration_itself_is_not_held_up(own_databases: Pair) -> None:
    async with gateway_over(own_databases) as gateway, own_databases.first.connection() as connection:
        await call(gateway, "read_table", table_name="orders")
        await call(gateway, "get_table_stats", table_name="orders")
        await connection.execute("SET lock_timeout = '2s'")
        try:
            await connection.execute("ALTER TABLE orders ADD COLUMN later int")
        except asyncpg.LockNotAvailableError:
            pytest.fail("a session of the gateway still holds a lock after its answer")
        columns = (await call(gateway, "describe_table", table_name="orders"))["columns"]

    assert columns[-1]["name"] == "later"
