"""A caller that goes away in the first milliseconds of its statement takes the statement along, too.

PostgreSQL loses a cancel that comes while a backend compiles its first expressions (`jit`), as costly statements make
it do: seen with 15.18 and LLVM, in about half of the tries, and never with `jit = off`.
"""

from __future__ import annotations

import asyncio
import time

import pytest

from gateway.app import Gateway
from gateway.errors import GatewayError
from tests.support.databases import SLOW
from tests.support.gateway import call, gateway_over
from tests.support.polling import until
from tests.support.postgres import Pair

pytestmark = pytest.mark.anyio

_RUNNING = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND strpos(query, $1) > 0"
_END_OTHERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"""
TRIES = 10
ENDED_S = 1.0


async def test_a_cancel_in_the_first_milliseconds_is_not_lost(own_databases: Pair) -> None:
    seconds = []
    async with own_databases.first.connection() as looking, gateway_over(own_databases) as gateway:
        for number in range(TRIES):
            # The next call but one gets a new backend, which has compiled nothing yet.
            await looking.fetch(_END_OTHERS)
            assert await until(lambda: answers(gateway))
            mark = f"-- cancelled early {number}"
            task = asyncio.create_task(call(gateway, "execute_query", query=f"{SLOW} {mark}"))
            # Without a pause: the moment is gone within milliseconds.
            while not await looking.fetchval(_RUNNING, mark):
                assert not task.done(), task.result()
            cancelled_at = time.monotonic()
            task.cancel()
            await asyncio.wait([task])
            while await looking.fetchval(_RUNNING, mark):
                assert time.monotonic() - cancelled_at < 10
            seconds.append(round(time.monotonic() - cancelled_at, 2))
    assert max(seconds) < ENDED_S, seconds


async def answers(gateway: Gateway) -> bool:
    try:
        await call(gateway, "execute_query", query="SELECT 1")
    except GatewayError:
        return False
    return True
