"""The pools on real servers: who shares a connection, and what failures and callers leave behind."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from gateway.app import Gateway
from gateway.errors import Busy, Unavailable
from gateway.observe import CallRecord, DialRecord, Record
from gateway.profiles import Endpoint, Limits, PoolSettings, Profile
from tests.support.gateway import call, config_of, gateway_over, profile_of
from tests.support.polling import until
from tests.support.postgres import Database, Pair

pytestmark = pytest.mark.anyio

# Runs for minutes, and the guard has nothing against it.
LONG = "SELECT count(*) FROM generate_series(1, 100000) AS a, generate_series(1, 100000) AS b"
# The time in which something is at once, on a busy machine.
SOON_S = 1.5


@dataclass
class Seen:
    """An observer that remembers."""

    records: list[Record] = field(default_factory=list)

    def __call__(self, record: Record, /) -> None:
        self.records.append(record)

    @property
    def dials(self) -> list[DialRecord]:
        return [record for record in self.records if isinstance(record, DialRecord)]

    @property
    def calls(self) -> list[CallRecord]:
        return [record for record in self.records if isinstance(record, CallRecord)]


async def backends(database: Database, *, state: str | None = None) -> list[int]:
    """Return the server processes that serve the gateway's role in this database."""
    async with database.connection() as connection:
        rows = await connection.fetch(
            """SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND usename = $1
               AND ($2::text IS NULL OR state = $2)""",
            database.reader,
            state,
        )
    return [row["pid"] for row in rows]


async def runs(database: Database, number: int = 1) -> bool:
    return await until(lambda: _count_is(database, number, state="active"), within_s=8)


async def _count_is(database: Database, number: int, *, state: str | None = None) -> bool:
    return len(await backends(database, state=state)) == number


async def one(gateway: Gateway, profile: str = "first") -> Any:
    return (await call(gateway, "execute_query", query="SELECT 1", profile=profile))["rows"]


async def works(gateway: Gateway) -> bool:
    with contextlib.suppress(Unavailable):
        return bool(await one(gateway) == [[1]])
    return False


async def cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@dataclass
class Silent:
    """A listener that takes connections, reads what comes and never says a word."""

    port: int = 0
    taken: int = 0
    closed: int = 0

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.taken += 1
        with contextlib.suppress(ConnectionError):
            while await reader.read(4096):
                pass
        self.closed += 1
        writer.close()


@contextlib.asynccontextmanager
async def silent_listener() -> AsyncIterator[Silent]:
    silent = Silent()
    server = await asyncio.start_server(silent.take, "127.0.0.1", 0)
    async with server:
        silent.port = server.sockets[0].getsockname()[1]
        yield silent
    assert await until(lambda: silent.closed == silent.taken)


def at_port(profile: Profile, port: int) -> Profile:
    return replace(profile, endpoints=(Endpoint(host="127.0.0.1", port=port),))


async def test_a_gateway_that_nobody_has_called_has_no_connections(own_databases: Pair) -> None:
    seen = Seen()
    async with gateway_over(own_databases, observers=[seen]) as gateway:
        assert (await backends(own_databases.first), seen.dials, gateway.pool_stats()) == ([], [], {})


async def test_concurrent_first_calls_share_one_pool(own_databases: Pair) -> None:
    seen = Seen()
    async with gateway_over(own_databases, observers=[seen]) as gateway:
        answers = await asyncio.gather(*(one(gateway) for _ in range(40)))

        opened = await backends(own_databases.first)
        assert answers == [[[1]]] * 40
        assert len(opened) == len(seen.dials) <= 5
        assert {(dial.profile, dial.outcome) for dial in seen.dials} == {("first", "ok")}
        assert gateway.pool_stats()["first"].size == len(opened)
        assert await backends(own_databases.second) == []


async def test_a_warm_connection_is_used_again(own_databases: Pair) -> None:
    seen = Seen()
    async with gateway_over(own_databases, observers=[seen]) as gateway:
        pids = {
            (await call(gateway, "execute_query", query="SELECT pg_backend_pid()"))["rows"][0][0] for _ in range(10)
        }

    assert (len(pids), len(seen.dials)) == (1, 1)


async def test_a_failed_first_call_leaves_no_wreck(own_databases: Pair) -> None:
    server = own_databases.first.server
    seen = Seen()
    limits = Limits(call_s=6)
    async with gateway_over(own_databases, observers=[seen], limits=limits) as gateway:
        await server.stop()
        failed = await asyncio.gather(*(one(gateway) for _ in range(6)), return_exceptions=True)
        assert {type(error) for error in failed} == {Unavailable}
        assert gateway.pool_stats()["first"].size == 0
        assert gateway.pool_stats()["first"].busy == 0

        await server.start()

        # The next try may be two seconds away.
        assert await until(lambda: works(gateway), within_s=6)
        assert await asyncio.gather(*(one(gateway) for _ in range(6))) == [[[1]]] * 6
        assert len(await backends(own_databases.first)) <= 5


async def test_a_killed_idle_backend_is_replaced(own_databases: Pair) -> None:
    async with gateway_over(own_databases) as gateway:
        await one(gateway)
        (killed,) = await backends(own_databases.first)
        async with own_databases.first.connection() as connection:
            await connection.execute("SELECT pg_terminate_backend($1)", killed)
        assert await until(lambda: _count_is(own_databases.first, 0))

        assert await one(gateway) == [[1]]
        assert await backends(own_databases.first) != [killed]


async def test_a_cancelled_caller_leaves_no_statement_running(own_databases: Pair) -> None:
    seen = Seen()
    async with gateway_over(own_databases, observers=[seen]) as gateway:
        task = asyncio.create_task(call(gateway, "execute_query", query=LONG))
        assert await runs(own_databases.first)

        await cancelled(task)

        assert await runs(own_databases.first, 0)
        assert seen.calls[-1].outcome == "cancelled"
        assert await until(lambda: gateway.pool_stats()["first"].busy == 0)
        assert await one(gateway) == [[1]]


async def test_a_caller_that_is_cancelled_in_the_queue_takes_no_place_along(own_databases: Pair) -> None:
    async with gateway_over(own_databases, pool=PoolSettings(min=0, max=1)) as gateway:
        running = asyncio.create_task(call(gateway, "execute_query", query=LONG))
        assert await runs(own_databases.first)
        queued = [asyncio.create_task(one(gateway)) for _ in range(3)]
        assert await until(lambda: gateway.pool_stats()["first"].waiting == 3)

        for task in queued:
            await cancelled(task)
        assert gateway.pool_stats()["first"].waiting == 0
        await cancelled(running)

        assert await asyncio.gather(*(one(gateway) for _ in range(3))) == [[[1]]] * 3
        assert len(await backends(own_databases.first)) == 1


async def test_a_caller_that_is_cancelled_while_dialling_leaves_no_socket_open(databases: Pair) -> None:
    async with silent_listener() as silent:
        first = at_port(profile_of(databases.first, "first", pool=PoolSettings(min=0, max=1)), silent.port)
        async with Gateway(config_of(first, profile_of(databases.second, "second")), environ={}) as gateway:
            task = asyncio.create_task(one(gateway))
            assert await until(lambda: silent.taken == 1)

            await cancelled(task)

            assert await until(lambda: silent.closed == 1)
            assert gateway.pool_stats()["first"].busy == 0
            again = asyncio.create_task(one(gateway))
            assert await until(lambda: silent.taken == 2)
            await cancelled(again)


async def test_busy_says_how_many_and_for_how_long(own_databases: Pair) -> None:
    limits = Limits(acquire_s=0.3)
    async with gateway_over(own_databases, pool=PoolSettings(min=0, max=2), limits=limits) as gateway:
        running = [asyncio.create_task(call(gateway, "execute_query", query=LONG)) for _ in range(2)]
        assert await runs(own_databases.first, 2)

        started = time.monotonic()
        with pytest.raises(Busy) as caught:
            await one(gateway)
        waited = time.monotonic() - started

        assert 0.3 <= waited < SOON_S
        assert "all 2 connections of profile first are in use" in caught.value.message
        assert caught.value.to_dict()["retryable"] is True
        assert await one(gateway, "second") == [[1]]
        for task in running:
            await cancelled(task)


async def test_waiting_callers_are_served_in_their_order(own_databases: Pair) -> None:
    order: list[int] = []

    async def caller(number: int) -> None:
        await one(gateway)
        order.append(number)

    async with gateway_over(own_databases, pool=PoolSettings(min=0, max=1)) as gateway:
        await asyncio.gather(*(caller(number) for number in range(12)))

    assert order == list(range(12))


async def test_a_dead_profile_does_not_slow_the_other(databases: Pair) -> None:
    async with silent_listener() as silent:
        first = at_port(profile_of(databases.first, "first", limits=Limits(call_s=20)), silent.port)
        async with Gateway(config_of(first, profile_of(databases.second, "second")), environ={}) as gateway:
            stuck = [asyncio.create_task(one(gateway)) for _ in range(20)]
            assert await until(lambda: silent.taken > 0)

            started = time.monotonic()
            assert await asyncio.gather(*(one(gateway, "second") for _ in range(20))) == [[[1]]] * 20
            assert time.monotonic() - started < SOON_S

            for task in stuck:
                await cancelled(task)


async def test_a_profile_that_does_not_answer_is_given_up_at_the_deadline(databases: Pair) -> None:
    async with silent_listener() as silent:
        first = at_port(profile_of(databases.first, "first", limits=Limits(call_s=1)), silent.port)
        async with Gateway(config_of(first, profile_of(databases.second, "second")), environ={}) as gateway:
            started = time.monotonic()
            failed = await asyncio.gather(*(one(gateway) for _ in range(10)), return_exceptions=True)

    assert time.monotonic() - started < 1 + 2
    assert {type(error).__name__ for error in failed} <= {"Unavailable", "CallTimeout", "Busy"}
    assert all(getattr(error, "profile", None) == "first" for error in failed)


async def test_what_the_caller_was_allowed_to_leave_in_the_session_is_gone_for_the_next(own_databases: Pair) -> None:
    allowed = ("pg_advisory_lock", "pg_try_advisory_lock")
    async with gateway_over(own_databases, pool=PoolSettings(min=0, max=1), allow_functions=allowed) as gateway:
        await call(gateway, "execute_query", query="SELECT pg_advisory_lock(42)")
        before = await backends(own_databases.first)

        # The only connection comes back when its reset is done.
        await one(gateway)
        async with own_databases.first.connection() as connection:
            assert await connection.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0
        assert await backends(own_databases.first) == before


async def test_the_session_is_read_only_and_itself_again_after_an_error(own_databases: Pair) -> None:
    async with gateway_over(own_databases, pool=PoolSettings(min=0, max=1)) as gateway:
        for query in ("SELECT 1/0", "SELECT nowhere", "SELECT 1"):
            with contextlib.suppress(Exception):
                await call(gateway, "execute_query", query=query)
            shown = await call(gateway, "execute_query", query="SHOW default_transaction_read_only")
            assert shown["rows"] == [["on"]]
        assert len(await backends(own_databases.first)) == 1
        assert await until(lambda: _count_is(own_databases.first, 1, state="idle"))


async def test_the_reset_runs_behind_the_answer(own_databases: Pair) -> None:
    async with gateway_over(own_databases) as gateway:
        await one(gateway)
        # No other task has run since: the connection is not back yet, and the caller has the answer.
        assert gateway.pool_stats()["first"].busy == 1

        assert await until(lambda: gateway.pool_stats()["first"].busy == 0)
        assert await backends(own_databases.first, state="idle") == await backends(own_databases.first)


async def test_no_transaction_stays_open_after_any_tool(own_databases: Pair) -> None:
    async with gateway_over(own_databases) as gateway:
        await call(gateway, "list_tables")
        for tool in ("describe_table", "read_table", "get_table_stats"):
            await call(gateway, tool, table_name="orders")
        await call(gateway, "search_tables", search_term="o")
        await one(gateway)

        assert await until(lambda: gateway.pool_stats()["first"].busy == 0)
        async with own_databases.first.connection() as connection:
            states = await connection.fetch(
                "SELECT state, xact_start FROM pg_stat_activity WHERE usename = $1 AND datname = current_database()",
                own_databases.first.reader,
            )
    assert {tuple(row) for row in states} == {("idle", None)}


async def test_the_warm_minimum_is_kept_after_the_first_call(own_databases: Pair) -> None:
    async with gateway_over(own_databases, pool=PoolSettings(min=3, max=5)) as gateway:
        await one(gateway)

        assert await until(lambda: _count_is(own_databases.first, 3), within_s=5)
        assert await backends(own_databases.second) == []


async def test_closing_the_gateway_leaves_no_backend(own_databases: Pair) -> None:
    async with gateway_over(own_databases) as gateway:
        await asyncio.gather(*(one(gateway, name) for name in ("first", "second") for _ in range(5)))

    for database in own_databases:
        assert await until(lambda database=database: _count_is(database, 0))  # type: ignore[misc] # the default binds the loop's variable


async def test_closing_the_gateway_does_not_wait_for_a_long_statement(own_databases: Pair) -> None:
    async with gateway_over(own_databases) as gateway:
        task = asyncio.create_task(call(gateway, "execute_query", query=LONG))
        assert await runs(own_databases.first)
        started = time.monotonic()
    assert time.monotonic() - started < 8

    with pytest.raises(BaseException):  # noqa: B017, PT011 - it ends, in whatever way
        await asyncio.wait_for(task, 5)
    assert await runs(own_databases.first, 0)
