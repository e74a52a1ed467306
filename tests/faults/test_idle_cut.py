"""Connections that a load balancer forgets when they are idle: no caller ever meets one.

Azure's forgets after 4 minutes, and the pool closes what is idle for 200 s; here both are seconds.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest

from gateway.deadline import Deadline
from gateway.pools import ProfilePool
from gateway.profiles import Endpoint, PoolSettings
from tests.support.forgetful import Relay
from tests.support.gateway import profile_of
from tests.support.polling import until
from tests.support.postgres import Database, Pair

pytestmark = pytest.mark.anyio

# In the proportion of 200 s to 240 s, with room for a busy machine.
IDLE_S = 1.0
FORGET_S = 2.0
POOL_MAX = 3
AT_ONCE_S = 1.0


@asynccontextmanager
async def pool_behind(
    relay: Relay, database: Database, *, idle_s: float, lowest: int = 0, warm_every_s: float = 30.0
) -> AsyncIterator[ProfilePool]:
    profile = replace(
        profile_of(database, "first", pool=PoolSettings(min=lowest, max=POOL_MAX)),
        endpoints=(Endpoint(host="127.0.0.1", port=relay.port),),
    )
    pool = ProfilePool(profile, environ={}, tell=lambda _record: None, idle_s=idle_s, warm_every_s=warm_every_s)
    try:
        yield pool
    finally:
        await pool.close(grace_s=0.5)


async def read(pool: ProfilePool, *, within_s: float = 5.0, at_once: int = 1) -> float:
    """Read over so many connections at once; return the seconds that it took."""
    started = time.monotonic()
    deadline = Deadline.after(within_s)
    async with AsyncExitStack() as stack, deadline.scope():
        for _ in range(at_once):
            connection = await stack.enter_async_context(pool.connection(deadline))
            assert await connection.fetchval("SELECT 1") == "1"
    return time.monotonic() - started


async def test_a_connection_that_is_kept_for_too_long_is_forgotten_without_a_word(databases: Pair) -> None:
    first = databases.first
    async with Relay.run(first.host, first.port, forget_s=0.3) as relay, pool_behind(relay, first, idle_s=60) as pool:
        await read(pool)
        assert await until(lambda: pool.stats().busy == 0)
        assert await until(relay.has_forgotten_all)

        with pytest.raises(TimeoutError):
            await read(pool, within_s=0.5)
        assert relay.met == 1


async def test_no_caller_meets_a_forgotten_connection(databases: Pair) -> None:
    first, chance = databases.first, random.Random(4)
    took: list[float] = []
    async with (
        Relay.run(first.host, first.port, forget_s=FORGET_S) as relay,
        pool_behind(relay, first, idle_s=IDLE_S) as pool,
    ):
        for _ in range(6):
            took.append(await read(pool, at_once=chance.randint(1, POOL_MAX)))
            # What a caller leaves behind it: some connections used again, some given up, some idle all the while.
            await asyncio.sleep(chance.uniform(0.5, 1.5) * IDLE_S)
        assert await until(lambda: pool.stats().size == 0, within_s=IDLE_S + AT_ONCE_S)
        took.append(await read(pool, at_once=POOL_MAX))

        assert relay.met == 0
        assert max(took) < AT_ONCE_S
        assert len(relay.flows) > POOL_MAX


async def test_connections_kept_warm_are_replaced_before_they_are_forgotten(databases: Pair) -> None:
    first = databases.first
    async with (
        Relay.run(first.host, first.port, forget_s=FORGET_S) as relay,
        pool_behind(relay, first, idle_s=IDLE_S, lowest=2, warm_every_s=0.1) as pool,
    ):
        await read(pool)
        # Nobody calls, and the two that are kept are other ones again and again.
        assert await until(lambda: len(relay.flows) >= 2 * 4, within_s=8 * IDLE_S)
        assert await until(lambda: (pool.stats().size, pool.stats().busy) == (2, 0))

        assert await read(pool, at_once=2) < AT_ONCE_S
        assert relay.met == 0
