"""The load of a drill on real databases: what it reads, what it records, and that it touches nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from gateway.app import Gateway
from gateway.drill_load import ALLOWED_FUNCTIONS, Load
from gateway.drill_records import Fault, Recording
from gateway.errors import GatewayError
from tests.support.gateway import config_of, gateway_over, profile_of
from tests.support.polling import until
from tests.support.postgres import Pair

pytestmark = pytest.mark.anyio


def allowing(pair: Pair) -> AbstractAsyncContextManager[Gateway]:
    """Run a gateway that lets the load wait in the database."""
    return gateway_over(pair, allow_functions=ALLOWED_FUNCTIONS)


@asynccontextmanager
async def loaded(gateway: Gateway, *, callers: int) -> AsyncIterator[Recording]:
    """Run a load on the profile `first`, with `second` as neighbour, for as long as the block."""
    load = Load(gateway, profile="first", callers=callers)
    await load.warm_up(["second"])
    recording = Recording(scenario="none", summary="", call_s=10, fault=Fault())
    recording.zero = recording.clock()
    stop = asyncio.Event()
    work = [load.call_on(caller, recording, stop) for caller in range(callers)]
    tasks = [asyncio.create_task(one) for one in (*work, load.ask_neighbour("second", recording, stop))]
    try:
        yield recording
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def test_every_caller_reads_again_and_again_and_one_reads_long(databases: Pair) -> None:
    async with allowing(databases) as gateway, loaded(gateway, callers=3) as seen:
        assert await until(lambda: sum(call.caller == 0 for call in seen.calls) >= 2)

    by_caller = {caller: [call.took_s for call in seen.calls if call.caller == caller] for caller in range(3)}
    assert all(call.is_answered for call in seen.calls)
    assert min(by_caller[0]) >= 0.4
    assert min(len(by_caller[1]), len(by_caller[2])) > len(by_caller[0])
    assert {call.profile for call in seen.neighbours} == {"second"}
    assert {call.outcome for call in seen.neighbours} == {"ok"}


async def test_a_role_that_may_not_wait_computes_instead(own_databases: Pair) -> None:
    async with own_databases.first.connection() as admin:
        await admin.execute("REVOKE EXECUTE ON FUNCTION pg_sleep(double precision) FROM PUBLIC")

    async with allowing(own_databases) as gateway, loaded(gateway, callers=2) as seen:
        assert await until(lambda: {call.caller for call in seen.calls} == {0, 1})

    assert {call.outcome for call in seen.calls} == {"ok"}


async def test_what_fails_is_recorded_with_its_code_and_how_often_it_was_tried(own_databases: Pair) -> None:
    async with allowing(own_databases) as gateway, loaded(gateway, callers=2) as seen:
        assert await until(lambda: len(seen.calls) > 5)
        async with own_databases.first.connection() as admin:
            await admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1 AND datname = $2",
                own_databases.first.reader,
                own_databases.first.name,
            )
        assert await until(lambda: any(call.retries for call in seen.calls))
        await own_databases_gone(own_databases)
        assert await until(lambda: any(not call.is_answered for call in seen.calls), within_s=40)

    failed = next(call for call in seen.calls if not call.is_answered)
    assert failed.outcome != "unanswered"
    assert failed.message


async def own_databases_gone(pair: Pair) -> None:
    """Take the reader's right to log in to the first database, and end its sessions."""
    async with pair.first.connection() as admin:
        await admin.execute(f"REVOKE CONNECT ON DATABASE {pair.first.name} FROM {pair.first.reader}")
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1 AND datname = $2",
            pair.first.reader,
            pair.first.name,
        )


async def test_a_profile_that_does_not_answer_is_told_before_the_load(databases: Pair) -> None:
    wrong = profile_of(databases.first, "first", password="literal:wrong", allow_functions=ALLOWED_FUNCTIONS)
    async with Gateway(config_of(wrong), environ={}) as gateway:
        with pytest.raises(GatewayError) as caught:
            await Load(gateway, profile="first", callers=2).warm_up([])
    assert caught.value.code == "auth_failed"
