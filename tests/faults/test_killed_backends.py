"""`pg_terminate_backend`, by somebody else, of what the gateway holds: idle, running, all of it under load."""

from __future__ import annotations

import asyncio

import pytest

from gateway.app import Gateway
from gateway.errors import GatewayError
from gateway.observe import CallRecord, Record
from gateway.profiles import PoolSettings
from tests.support.gateway import call, gateway_over
from tests.support.polling import until
from tests.support.postgres import Database, Pair

pytestmark = pytest.mark.anyio

POOL_MAX = 4
TIMES = 20
_BACKENDS = """SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND usename = $1 AND ($2::text IS NULL OR wait_event_type = $2)"""
_END = """SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE datname = current_database() AND usename = $1"""


async def end_all(database: Database) -> int:
    """End every session of the gateway's role; return how many there were."""
    async with database.connection() as admin:
        return int(await admin.fetchval(_END, database.reader))


async def backends(database: Database, *, waiting_for: str | None = None) -> int:
    async with database.connection() as admin:
        return int(await admin.fetchval(_BACKENDS, database.reader, waiting_for))


async def read(gateway: Gateway, profile: str = "first") -> str:
    """Return how a read ends: "ok" or the error's code."""
    try:
        await call(gateway, "execute_query", query="SELECT count(*) FROM generate_series(1, 2000)", profile=profile)
    except GatewayError as error:
        return error.code
    return "ok"


async def test_a_read_after_its_idle_connection_was_ended_is_answered(own_databases: Pair) -> None:
    first = own_databases.first
    async with gateway_over(own_databases, pool=PoolSettings(min=0, max=POOL_MAX)) as gateway:
        outcomes = [await read(gateway)]
        for _ in range(TIMES):
            # At once: the word of it may be read by now and the end of the connection not yet.
            assert await end_all(first) >= 1
            outcomes.append(await read(gateway))

        assert outcomes == ["ok"] * (TIMES + 1)
        assert await until(lambda: _at_most(first, 1))


async def test_a_read_whose_backend_is_ended_under_it_is_repeated(own_databases: Pair) -> None:
    records: list[Record] = []
    first = own_databases.first
    async with gateway_over(own_databases, observers=[records.append]) as gateway, first.connection() as admin:
        async with admin.transaction():
            await admin.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
            running = asyncio.create_task(call(gateway, "execute_query", query="SELECT count(*) FROM orders"))
            assert await until(lambda: _waits(first))
            await end_all(first)
        answer = await running

    (made,) = (record for record in records if isinstance(record, CallRecord))
    assert answer["row_count"] == 1
    assert (made.outcome, made.retries) == ("ok", 1)


async def test_no_read_is_lost_when_all_backends_are_ended_again_and_again(own_databases: Pair) -> None:
    records: list[Record] = []
    first = own_databases.first
    outcomes: list[str] = []
    is_over = asyncio.Event()

    async def keep_reading() -> None:
        while not is_over.is_set():
            outcomes.append(await read(gateway))
            await read(gateway, "second")

    pool = PoolSettings(min=1, max=POOL_MAX)
    async with gateway_over(own_databases, observers=[records.append], pool=pool) as gateway:
        readers = [asyncio.create_task(keep_reading()) for _ in range(2 * POOL_MAX)]
        for _ in range(TIMES):
            seen = len(outcomes)
            assert await until(lambda seen=seen: len(outcomes) > seen + POOL_MAX)  # type: ignore[misc] # mypy cannot infer a lambda with a default
            await end_all(first)
        is_over.set()
        await asyncio.gather(*readers)

        calls = [record for record in records if isinstance(record, CallRecord)]
        assert set(outcomes) == {"ok"}
        assert any(made.retries for made in calls if made.profile == "first")
        assert not any(made.retries for made in calls if made.profile == "second")
        assert await until(lambda: _at_most(first, gateway.pool_stats()["first"].size))
        assert gateway.pool_stats()["first"].size <= POOL_MAX


async def _at_most(database: Database, number: int) -> bool:
    return await backends(database) <= number


async def _waits(database: Database) -> bool:
    return await backends(database, waiting_for="Lock") == 1
