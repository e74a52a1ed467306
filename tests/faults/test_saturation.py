"""More callers than connections, and a profile that hangs: order, bounds, and nothing of it for the others."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from gateway.app import Gateway
from gateway.dial_loop import look_up
from gateway.errors import Busy, GatewayError, Unavailable
from gateway.profiles import Endpoint, Limits, PoolSettings
from tests.support.gateway import call, config_of, gateway_over, profile_of
from tests.support.polling import until
from tests.support.postgres import Database, Pair

pytestmark = pytest.mark.anyio

CALLERS = 50
POOL = PoolSettings(min=0, max=2)
GRACE_S = 2.0
AT_ONCE_S = 1.5
HELD = "SELECT count(*) FROM orders"
QUICK = "SELECT 1"
# Long enough to be parsed on the parser's threads.
LONG_TEXT = f"SELECT {', '.join(str(n) for n in range(1500))}"
HANGING = "hanging.test"


@asynccontextmanager
async def slow(gateway: Gateway, database: Database, number: int) -> AsyncIterator[list[asyncio.Task[dict[str, Any]]]]:
    """Have so many calls run in the database until the end."""

    async def all_wait() -> bool:
        async with database.connection() as admin:
            waiting = await admin.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
        return int(waiting) == number

    async with database.connection() as holder, holder.transaction():
        await holder.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
        tasks = [asyncio.create_task(call(gateway, "execute_query", query=HELD)) for _ in range(number)]
        assert await until(all_wait)
        yield tasks
    await asyncio.gather(*tasks)


async def test_callers_are_answered_in_their_order_around_a_slow_one(own_databases: Pair) -> None:
    order: list[int] = []

    async def caller(number: int) -> None:
        await call(gateway, "execute_query", query=QUICK)
        order.append(number)

    async with (
        gateway_over(own_databases, pool=POOL, limits=Limits(acquire_s=10.0)) as gateway,
        slow(gateway, own_databases.first, 1) as running,
    ):
        await asyncio.gather(*(caller(number) for number in range(CALLERS)))

        assert order == list(range(CALLERS))
        assert not running[0].done()


async def test_callers_wait_no_longer_than_they_may_and_hear_who_holds_the_connections(own_databases: Pair) -> None:
    async with (
        gateway_over(own_databases, pool=POOL, limits=Limits(acquire_s=1.0)) as gateway,
        slow(gateway, own_databases.first, 2),
    ):
        started = time.monotonic()
        answers = await asyncio.gather(*(call(gateway, "list_tables") for _ in range(CALLERS)), return_exceptions=True)
        took_s = time.monotonic() - started

        assert {type(answer) for answer in answers} == {Busy}
        assert 1.0 <= took_s < 1.0 + GRACE_S
        told = [answer.to_dict() for answer in answers if isinstance(answer, Busy)]
        held = r"execute_query for (\d\.\d) s"
        found = [
            re.match(rf"all 2 connections of profile first are in use \({held}, {held}\)", one["message"])
            for one in told
        ]
        assert all(one is not None and min(map(float, one.groups())) >= 1.0 for one in found), told[0]
        assert {(one["profile"], one["waited_for"], one["retryable"]) for one in told} == {("first", "pool", True)}
        assert all(1.0 <= one["waited_s"] < 1.0 + GRACE_S for one in told)
        # The neighbour has its own connections.
        assert (await call(gateway, "execute_query", query=QUICK, profile="second"))["rows"] == [[1]]


async def test_a_caller_too_many_is_turned_away_at_once(own_databases: Pair) -> None:
    async with (
        gateway_over(own_databases, pool=POOL, limits=Limits(acquire_s=10.0)) as gateway,
        slow(gateway, own_databases.first, 2),
    ):
        queue = [asyncio.create_task(call(gateway, "execute_query", query=QUICK)) for _ in range(2 * 50)]
        assert await until(lambda: gateway.pool_stats()["first"].waiting == len(queue))

        started = time.monotonic()
        with pytest.raises(Busy, match="100 callers wait"):
            await call(gateway, "execute_query", query=QUICK)
        assert time.monotonic() - started < AT_ONCE_S
        for task in queue:
            task.cancel()
        await asyncio.wait(queue)


class NameServer:
    """Answers for every name but one, for which it blocks until it is told to."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.asked = 0

    def look_up(self, host: str, port: int) -> list[Any]:
        if host != HANGING:
            return look_up(host, port)
        self.asked += 1
        self.answers.wait(timeout=60)
        return look_up("127.0.0.1", port)


@asynccontextmanager
async def gateway_with(names: NameServer, pair: Pair) -> AsyncIterator[Gateway]:
    """Run a gateway whose first profile has the name that hangs."""
    first = profile_of(pair.first, "first", limits=Limits(call_s=3.0, acquire_s=3.0), pool=PoolSettings(min=0, max=10))
    first = replace(first, endpoints=(Endpoint(host=HANGING, port=pair.first.port),))
    others = [
        replace(profile_of(pair.second, f"other_{n}"), endpoints=(Endpoint(host="localhost", port=pair.second.port),))
        for n in range(3)
    ]
    async with Gateway(config_of(first, *others), environ={}, look_up=names.look_up) as gateway:
        try:
            yield gateway
        finally:
            names.answers.set()


async def outcome(gateway: Gateway, query: str) -> GatewayError | dict[str, Any]:
    try:
        return await call(gateway, "execute_query", query=query)
    except GatewayError as error:
        return error


async def test_look_ups_that_hang_hold_up_nobody_else(databases: Pair) -> None:
    names = NameServer()
    async with gateway_with(names, databases) as gateway:
        hanging = [asyncio.create_task(outcome(gateway, LONG_TEXT if n % 2 else QUICK)) for n in range(6)]
        assert await until(lambda: names.asked == 2)

        # Each of the others looks a name up, dials, and has a text judged that needs the parser's threads.
        took = []
        for n in range(3):
            started = time.monotonic()
            await asyncio.gather(
                *(call(gateway, "execute_query", query=LONG_TEXT, profile=f"other_{n}") for _ in range(4))
            )
            took.append(time.monotonic() - started)
        assert max(took) < AT_ONCE_S, took
        assert not any(task.done() for task in hanging)

        errors = await asyncio.gather(*hanging)
        assert {type(error) for error in errors} == {Unavailable}
        assert all("s for the name look-up" in str(error) for error in errors), errors


async def test_a_profile_whose_look_ups_hang_takes_no_more_threads_and_says_so_again(databases: Pair) -> None:
    names = NameServer()
    async with gateway_with(names, databases) as gateway:
        before = threading.active_count()
        told = [str(error) for error in await asyncio.gather(*(outcome(gateway, QUICK) for _ in range(6)))]

        async def is_tried_again() -> bool:
            """Call until one is the breaker's try, which finds the threads taken."""
            started = time.monotonic()
            told.append(str(await outcome(gateway, QUICK)))
            return time.monotonic() - started > 1.0

        for _ in range(2):
            assert await until(is_tried_again)

        assert names.asked == 2
        assert threading.active_count() - before <= 4
        assert all("s for the name look-up" in text for text in told), told[-1]

        names.answers.set()

        async def answers() -> bool:
            return isinstance(await outcome(gateway, QUICK), dict)

        started = time.monotonic()
        assert await until(answers)
        assert time.monotonic() - started < 3.0
