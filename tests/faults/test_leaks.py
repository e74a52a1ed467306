"""Callers that go away in masses, at any moment, leave nothing: no backend, no place taken, no task, no socket."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import gateway
from gateway.app import Gateway
from gateway.errors import GatewayError, Unavailable
from gateway.profiles import Endpoint, Limits, PoolSettings, Profile, RetrySettings
from tests.support.gateway import call, config_of, profile_of
from tests.support.polling import until
from tests.support.postgres import Database, Pair

pytestmark = pytest.mark.anyio

POOL_MAX = 3
CALLERS = 200
QUICK = "SELECT 1"
HELD = "SELECT count(*) FROM orders"
_BACKENDS = """SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND usename = $1 AND ($2::text IS NULL OR state = $2)"""


@dataclass
class Door:
    """A port before the database: open, it passes everything on; shut, it takes connections and says nothing."""

    port: int = 0
    is_open: bool = True
    shut_for: int = 0

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, database: Database) -> None:
        with contextlib.closing(writer):
            if not self.is_open:
                self.shut_for += 1
                with contextlib.suppress(ConnectionError):
                    while await reader.read(4096):
                        pass
                return
            behind_reader, behind_writer = await asyncio.open_connection(database.host, database.port)
            with contextlib.closing(behind_writer):
                ways = [
                    asyncio.create_task(_pass_on(reader, behind_writer)),
                    asyncio.create_task(_pass_on(behind_reader, writer)),
                ]
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in ways:
                    way.cancel()
                await asyncio.wait(ways)


async def _pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await source.read(65_536):
            target.write(data)
            await target.drain()


@pytest.fixture
async def door(own_databases: Pair) -> AsyncIterator[Door]:
    made = Door()
    taking: set[asyncio.Task[None]] = set()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        taking.add(task)
        await made.take(reader, writer, own_databases.first)
        taking.discard(task)

    async with await asyncio.start_server(take, "127.0.0.1", 0) as server:
        made.port = server.sockets[0].getsockname()[1]
        yield made
    assert await until(lambda: not taking)


def profile_through(door: Door, database: Database) -> Profile:
    made = profile_of(
        database,
        "first",
        pool=PoolSettings(min=0, max=POOL_MAX),
        limits=Limits(call_s=20.0, acquire_s=20.0),
        retry=RetrySettings(first_wait_s=0.05, max_wait_s=0.2),
    )
    return replace(made, endpoints=(Endpoint(host="127.0.0.1", port=door.port),))


async def backends(database: Database, *, state: str | None = None) -> int:
    async with database.connection() as admin:
        return int(await admin.fetchval(_BACKENDS, database.reader, state))


@contextlib.asynccontextmanager
async def holding(database: Database) -> AsyncIterator[None]:
    """Keep every statement on the table `orders` waiting."""
    async with database.connection() as admin, admin.transaction():
        await admin.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
        yield


async def cancel_all(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def all_places_work(gateway: Gateway, database: Database) -> bool:
    """Say whether as many callers as the pool has places are in the database at once."""

    async def all_in() -> bool:
        return await backends(database, state="active") == POOL_MAX

    async with holding(database):
        tasks = [asyncio.create_task(call(gateway, "execute_query", query=HELD)) for _ in range(POOL_MAX)]
        are_in = await until(all_in)
    answers = await asyncio.gather(*tasks)
    return are_in and all(answer["row_count"] == 1 for answer in answers)


async def is_at_rest(gateway: Gateway, database: Database) -> bool:
    """Say whether nothing runs and nobody waits any more, and the server has no session but the pool's."""
    stats = gateway.pool_stats()["first"]
    return (stats.busy, stats.waiting) == (0, 0) and await backends(database) == stats.size


@pytest.mark.parametrize("moment", ["queueing", "dialling", "running", "at_random"])
async def test_cancelled_callers_leave_nothing_behind(own_databases: Pair, door: Door, moment: str) -> None:
    first = own_databases.first
    before = asyncio.all_tasks()
    async with Gateway(config_of(profile_through(door, first)), environ={}) as gateway:
        await call(gateway, "execute_query", query=QUICK)
        await _MOMENTS[moment](gateway, first, door)

        assert await until(lambda: is_at_rest(gateway, first))
        assert gateway.pool_stats()["first"].size <= POOL_MAX
        assert await all_places_work(gateway, first)
        assert await backends(first) <= POOL_MAX
    # What a socket or a coroutine that nobody closed says is an error here (filterwarnings), once it is collected.
    gc.collect()
    assert await until(lambda: _own_tasks(before) == set()), _own_tasks(before)
    assert await until(lambda: _none_left(first))


def _own_tasks(before: set[asyncio.Task[Any]]) -> set[asyncio.Task[Any]]:
    """Return the tasks that the gateway left."""
    ours = Path(gateway.__file__).parent
    return {
        task
        for task in asyncio.all_tasks() - before
        if inspect.iscoroutine(made := task.get_coro()) and Path(made.cr_code.co_filename).is_relative_to(ours)
    }


async def _none_left(database: Database) -> bool:
    return await backends(database) == 0


async def _while_queueing(gateway: Gateway, database: Database, door: Door) -> None:
    del door
    async with holding(database):
        tasks = [asyncio.create_task(call(gateway, "execute_query", query=HELD)) for _ in range(40)]
        assert await until(lambda: gateway.pool_stats()["first"].waiting == 40 - POOL_MAX)
        await cancel_all(tasks)


async def _while_dialling(gateway: Gateway, database: Database, door: Door) -> None:
    async with database.connection() as admin:
        await admin.fetch("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", database.reader)
    assert await until(lambda: _none_left(database))
    door.is_open = False
    for round_ in range(1, 6):
        tasks = [asyncio.create_task(call(gateway, "execute_query", query=QUICK)) for _ in range(10)]
        assert await until(lambda round_=round_: door.shut_for >= 2 * round_)  # type: ignore[misc] # mypy cannot infer a lambda with a default
        await cancel_all(tasks)
    door.is_open = True


async def _while_running(gateway: Gateway, database: Database, door: Door) -> None:
    del door

    async def all_run() -> bool:
        return await backends(database, state="active") == POOL_MAX

    for _ in range(5):
        async with holding(database):
            tasks = [asyncio.create_task(call(gateway, "execute_query", query=HELD)) for _ in range(POOL_MAX)]
            assert await until(all_run)
            await cancel_all(tasks)


async def _at_random(gateway: Gateway, database: Database, door: Door) -> None:
    chance = random.Random(5)

    async def caller() -> None:
        with contextlib.suppress(GatewayError, TimeoutError):
            async with asyncio.timeout(chance.uniform(0, 0.5)):
                await call(gateway, "execute_query", query=chance.choice([QUICK, HELD]))

    async def disturb() -> None:
        while True:
            door.is_open = chance.random() < 0.7
            async with database.connection() as admin:
                ended = chance.randint(0, 1)
                await admin.fetch(
                    """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                       WHERE datname = current_database() AND usename = $1 LIMIT $2""",
                    database.reader,
                    ended,
                )
            await asyncio.sleep(0.05)

    disturbing = asyncio.create_task(disturb())
    async with holding(database):
        for _ in range(CALLERS // 50):
            await asyncio.gather(*(caller() for _ in range(50)))
    disturbing.cancel()
    await asyncio.wait([disturbing])
    door.is_open = True

    async def answers() -> bool:
        try:
            await call(gateway, "execute_query", query=QUICK)
        except Unavailable:
            return False
        return True

    assert await until(answers)


_MOMENTS = {
    "queueing": _while_queueing,
    "dialling": _while_dialling,
    "running": _while_running,
    "at_random": _at_random,
}
