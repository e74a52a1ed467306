"""A PgBouncer that goes away, stands still, is paused or full, or loses the database behind it, under a steady load."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from gateway.app import Gateway
from gateway.errors import GatewayError, Unavailable
from gateway.profiles import Limits
from tests.faults.load import under_load
from tests.support.gateway import call
from tests.support.pgbouncer import PgBouncer, gateway_behind
from tests.support.polling import until
from tests.support.postgres import Pair

pytestmark = pytest.mark.anyio

CALL_S = 12.0
BRIEF = Limits(call_s=2.0, statement_s=1.0)
GRACE_S = 2.0
BACK_S = 3.0
LONG = "SELECT count(*) FROM generate_series(1, 100000) AS a, generate_series(1, 100000) AS b"

Disturbance = Callable[[PgBouncer, Pair], Awaitable[None]]


async def pass_by(gateway: Gateway, seconds: float) -> float:
    """Let time pass in which only the neighbour is read; return its slowest answer."""
    slowest, until_then = 0.0, time.monotonic() + seconds
    while time.monotonic() < until_then:
        started = time.monotonic()
        await call(gateway, "execute_query", query="SELECT 1", profile="second")
        slowest = max(slowest, time.monotonic() - started)
    return slowest


async def answers(gateway: Gateway) -> bool:
    try:
        await call(gateway, "execute_query", query="SELECT 1")
    except GatewayError:
        return False
    return True


async def restarted(pooler: PgBouncer, _pair: Pair) -> None:
    await pooler.stop()
    await pooler.start()


async def killed(pooler: PgBouncer, _pair: Pair) -> None:
    await pooler.kill()
    await pooler.start()


async def reconnected(pooler: PgBouncer, _pair: Pair) -> None:
    await pooler.order("RECONNECT")


async def server_restarted(_pooler: PgBouncer, pair: Pair) -> None:
    await pair.first.server.restart()


async def sessions_ended(_pooler: PgBouncer, pair: Pair) -> None:
    async with pair.first.connection() as admin:
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


@pytest.mark.parametrize("disturb", [restarted, killed, reconnected, server_restarted, sessions_ended])
async def test_what_is_over_in_a_moment_loses_no_read(disturb: Disturbance, own_databases: Pair) -> None:
    async with (
        PgBouncer.before(own_databases.first, settings={"server_login_retry": "1"}) as pooler,
        gateway_behind(pooler, own_databases, limits=Limits(call_s=CALL_S, statement_s=10.0)) as gateway,
    ):
        load = await under_load(gateway, "first", lambda: disturb(pooler, own_databases))

    assert load.lost == []
    assert load.longest_s < CALL_S + GRACE_S


@pytest.mark.parametrize("wait_s", ["1", "30"], ids=["told to come again", "waiting"])
async def test_a_pause_loses_no_read_and_does_not_touch_the_neighbour(wait_s: str, own_databases: Pair) -> None:
    slowest = []
    async with (
        PgBouncer.before(own_databases.first, settings={"query_wait_timeout": wait_s}) as pooler,
        gateway_behind(pooler, own_databases, limits=Limits(call_s=CALL_S, statement_s=10.0)) as gateway,
    ):

        async def pause() -> None:
            await pooler.order("PAUSE")
            slowest.append(await pass_by(gateway, 3.0))
            await pooler.order("RESUME")

        load = await under_load(gateway, "first", pause)

    assert load.lost == []
    assert slowest[0] < 1.0


async def test_a_database_that_is_down_for_some_seconds_behind_the_pooler_loses_no_read(own_databases: Pair) -> None:
    async with (
        PgBouncer.before(own_databases.first, settings={"server_login_retry": "1"}) as pooler,
        gateway_behind(pooler, own_databases, limits=Limits(call_s=CALL_S, statement_s=10.0)) as gateway,
    ):

        async def stop_and_start() -> None:
            await own_databases.first.server.stop("immediate")
            await pass_by(gateway, 3.0)
            await own_databases.first.server.start()

        load = await under_load(gateway, "first", stop_and_start)

    assert load.lost == []


@asynccontextmanager
async def paused(pooler: PgBouncer, _pair: Pair) -> AsyncIterator[None]:
    await pooler.order("PAUSE")
    yield
    await pooler.order("RESUME")


@asynccontextmanager
async def frozen(pooler: PgBouncer, _pair: Pair) -> AsyncIterator[None]:
    pooler.freeze()
    yield
    pooler.thaw()


@asynccontextmanager
async def gone(pooler: PgBouncer, _pair: Pair) -> AsyncIterator[None]:
    await pooler.kill()
    yield
    await pooler.start()


@asynccontextmanager
async def all_taken(pooler: PgBouncer, pair: Pair) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for _ in range(2):
            client = await stack.enter_async_context(pooler.client(pair.first))
            await client.execute("BEGIN")
        yield


@asynccontextmanager
async def server_gone(_pooler: PgBouncer, pair: Pair) -> AsyncIterator[None]:
    await pair.first.server.stop("immediate")
    yield
    await pair.first.server.start()


@pytest.mark.parametrize("trouble", [paused, frozen, gone, all_taken, server_gone])
async def test_trouble_that_outlasts_the_call_is_answered_in_time_and_over_soon_after(
    trouble: Callable[[PgBouncer, Pair], Any], own_databases: Pair
) -> None:
    async with (
        PgBouncer.before(own_databases.first, settings={"server_login_retry": "1"}) as pooler,
        gateway_behind(pooler, own_databases, limits=BRIEF) as gateway,
    ):
        await call(gateway, "list_tables")
        async with trouble(pooler, own_databases):
            started = time.monotonic()
            calls = [call(gateway, "execute_query", query="SELECT 1") for _ in range(3)]
            told = await asyncio.gather(*calls, return_exceptions=True)
            took = time.monotonic() - started
            neighbour = await call(gateway, "execute_query", query="SELECT 1", profile="second")
        back = time.monotonic()

        assert {error.code for error in told if isinstance(error, GatewayError)} <= {"unavailable", "timeout"}
        assert all(isinstance(error, GatewayError) for error in told)
        assert took < BRIEF.call_s + GRACE_S
        assert neighbour["rows"] == [[1]]
        assert await until(lambda: answers(gateway))
        assert time.monotonic() - back < BACK_S


async def test_a_full_pooler_is_unavailable_for_a_moment_and_no_fault_of_the_configuration(
    own_databases: Pair,
) -> None:
    async with (
        PgBouncer.before(own_databases.first, settings={"max_client_conn": "2"}) as pooler,
        gateway_behind(pooler, own_databases, limits=BRIEF) as gateway,
    ):
        async with pooler.client(own_databases.first), pooler.client(own_databases.first):
            started = time.monotonic()
            with pytest.raises(Unavailable, match="max_client_conn") as caught:
                await call(gateway, "list_tables")
            assert time.monotonic() - started < BRIEF.call_s + GRACE_S

        assert caught.value.repeat == "always"
        back = time.monotonic()
        assert await until(lambda: answers(gateway))
        assert time.monotonic() - back < BACK_S


async def test_a_statement_whose_server_connection_is_cut_is_repeated_once(own_databases: Pair) -> None:
    async with (
        PgBouncer.before(own_databases.first) as pooler,
        gateway_behind(pooler, own_databases, limits=Limits(call_s=CALL_S, statement_s=10.0)) as gateway,
        own_databases.first.connection() as admin,
    ):
        ended: set[int] = set()

        async def another_is_ended() -> bool:
            # One that has run for a while: while it was being described, the server's own word would be handed on.
            rows = await admin.fetch(
                "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
                "AND state = 'active' AND query LIKE '%100000%' AND now() - query_start > '0.3 s' "
                "AND pid <> pg_backend_pid() AND pid <> ALL ($1)",
                ended,
            )
            ended.update(row["pid"] for row in rows)
            return bool(rows)

        task = asyncio.create_task(call(gateway, "execute_query", query=LONG))
        assert await until(another_is_ended)
        assert await until(another_is_ended)
        with pytest.raises(Unavailable, match="server conn crashed"):
            await task
        assert len(ended) == 2
