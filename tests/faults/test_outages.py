"""A database that goes away and comes back, without any proxy: nothing may be lost that had time left."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest

from gateway.app import Gateway
from gateway.embedded import EmbeddedServer
from gateway.errors import GatewayError, Unavailable
from gateway.observe import CallRecord, Record
from gateway.profiles import Endpoint, Limits, PoolSettings, Profile, Tls
from tests.faults.load import under_load
from tests.support.gateway import call, config_of
from tests.support.polling import until

pytestmark = pytest.mark.anyio


def profile_for(server: EmbeddedServer, name: str, **limits: float) -> Profile:
    return Profile(
        name=name,
        endpoints=(Endpoint(host=server.host, port=server.port),),
        database="postgres",
        user=server.user,
        password=f"literal:{server.password}",
        tls=Tls(mode="disable"),
        pool=PoolSettings(min=0, max=5),
        limits=Limits(**{"call_s": 12.0, "statement_s": 10.0, **limits}),  # type: ignore[arg-type] # seconds only
    )


@pytest.fixture
async def pair() -> AsyncIterator[tuple[EmbeddedServer, EmbeddedServer]]:
    async with EmbeddedServer.create() as one, EmbeddedServer.create() as other:
        yield one, other


async def test_a_fast_restart_loses_no_read(pair: tuple[EmbeddedServer, EmbeddedServer]) -> None:
    async with Gateway(config_of(*(profile_for(s, n) for s, n in zip(pair, "ab", strict=True))), environ={}) as gateway:
        load = await under_load(gateway, "a", pair[0].restart)

    assert load.lost == []


async def test_an_immediate_stop_for_five_seconds_loses_no_read_that_has_time_left(
    pair: tuple[EmbeddedServer, EmbeddedServer],
) -> None:
    records: list[Record] = []

    async def stop_and_start() -> None:
        await pair[0].stop("immediate")
        down_until = time.monotonic() + 5.0
        # The neighbour answers all the while, and as quickly as ever.
        while time.monotonic() < down_until:
            await call(gateway, "execute_query", query="SELECT 1", profile="b")
        await pair[0].start()

    configuration = config_of(*(profile_for(s, n) for s, n in zip(pair, "ab", strict=True)))
    async with Gateway(configuration, environ={}, observers=[records.append]) as gateway:
        load = await under_load(gateway, "a", stop_and_start)

    calls = [record for record in records if isinstance(record, CallRecord)]
    assert load.lost == []
    assert load.longest_s < 12.0 + 2.0
    assert any(record.retries for record in calls if record.profile == "a")
    assert max(record.seconds for record in calls if record.profile == "b") < 1.0
    assert not any(record.retries for record in calls if record.profile == "b")


async def test_a_dead_profile_fails_in_milliseconds_once_that_is_known_and_recovers_by_itself(
    pair: tuple[EmbeddedServer, EmbeddedServer],
) -> None:
    async with Gateway(config_of(profile_for(pair[0], "a", call_s=2.0, statement_s=1.0)), environ={}) as gateway:
        await call(gateway, "list_tables")
        await pair[0].stop("immediate")
        with pytest.raises(Unavailable):
            await call(gateway, "list_tables")

        started = time.monotonic()
        with pytest.raises(Unavailable, match="has been unreachable since"):
            await call(gateway, "list_tables")
        assert time.monotonic() - started < 0.05

        await pair[0].start()

        async def answers() -> bool:
            try:
                await call(gateway, "list_tables")
            except Unavailable:
                return False
            return True

        back = time.monotonic()
        assert await until(answers)
        assert time.monotonic() - back < 3.0


async def test_a_server_that_is_frozen_for_some_seconds_loses_no_read_that_has_time_left(
    pair: tuple[EmbeddedServer, EmbeddedServer],
) -> None:
    records: list[Record] = []

    async def freeze() -> None:
        pair[0].pause()
        frozen_until = time.monotonic() + 3.0
        while time.monotonic() < frozen_until:
            await call(gateway, "execute_query", query="SELECT 1", profile="b")
        pair[0].resume()

    configuration = config_of(*(profile_for(s, n) for s, n in zip(pair, "ab", strict=True)))
    async with Gateway(configuration, environ={}, observers=[records.append]) as gateway:
        load = await under_load(gateway, "a", freeze)

        assert load.lost == []
        assert load.longest_s < 3.0 + 3.0
        assert max(record.seconds for record in records if record.profile == "b") < 1.0
        assert gateway.pool_stats()["a"].size <= 5


async def test_a_frozen_server_is_answered_for_in_time_and_leaves_no_backend_behind(
    pair: tuple[EmbeddedServer, EmbeddedServer],
) -> None:
    async with Gateway(config_of(profile_for(pair[0], "a", call_s=2.0, statement_s=1.0)), environ={}) as gateway:
        await call(gateway, "list_tables")
        pair[0].pause()
        started = time.monotonic()
        with pytest.raises(GatewayError) as caught:
            await call(gateway, "list_tables")
        took = time.monotonic() - started
        pair[0].resume()

        assert caught.value.code in ("timeout", "unavailable")
        assert took < 2.0 + 2.0

        async def answers() -> bool:
            try:
                await call(gateway, "list_tables")
            except GatewayError:
                return False
            return True

        assert await until(answers)
