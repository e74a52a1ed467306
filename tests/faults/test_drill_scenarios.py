"""Each scenario of a drill is felt by a plain client, and leaves the proxy as it was."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import asyncpg
import pytest

from gateway.drill_scenarios import SCENARIOS, Site
from gateway.embedded import EmbeddedServer
from gateway.toxiproxy import Proxy, Toxiproxy
from tests.support.postgres import Database, Pair

pytestmark = pytest.mark.anyio

LASTS_S = 1.2
PATIENCE_S = 0.8
# An undisturbed read takes some milliseconds; the mildest fault adds some hundred, or loses the connection.
FELT_S = 0.1
KILOBYTES = "SELECT repeat('x', 3000)"
CLIENTS = 6


async def connect(database: Database, proxy: Proxy) -> asyncpg.Connection[Any]:
    host, port = proxy.address
    return await asyncpg.connect(
        host=host,
        port=port,
        user=database.reader,
        password=database.reader_password,
        database=database.name,
        ssl=False,
        timeout=PATIENCE_S,
        command_timeout=PATIENCE_S,
    )


async def feels(database: Database, proxy: Proxy, ready: asyncio.Event, stop: asyncio.Event) -> bool:
    """Read until something takes long or fails, and once more after `stop`; return whether it did."""
    connection = await connect(database, proxy)
    try:
        await connection.fetchval(KILOBYTES)
        ready.set()
        while True:
            is_last = stop.is_set()
            started = time.monotonic()
            try:
                await connection.fetchval(KILOBYTES)
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                return True
            if time.monotonic() - started > FELT_S:
                return True
            if is_last:
                return False
            await asyncio.sleep(0.05)
    finally:
        connection.terminate()


@pytest.mark.parametrize("scenario", [it for it in SCENARIOS if not it.own_server], ids=lambda it: str(it.name))
async def test_a_fault_of_the_network_is_felt_and_taken_away(
    scenario: Any, toxiproxy: Toxiproxy, databases: Pair
) -> None:
    database = databases.first
    proxy = await toxiproxy.proxy(f"drill.{scenario.name}", (database.host, database.port))
    site, stop, in_place = Site(proxies=[proxy]), asyncio.Event(), asyncio.Event()
    try:
        await scenario.prepare(site)
        ready = [asyncio.Event() for _ in range(CLIENTS)]
        clients = [asyncio.create_task(feels(database, proxy, one, stop)) for one in ready]
        await asyncio.gather(*(one.wait() for one in ready))

        await scenario.strike(site, LASTS_S, in_place.set)
        stop.set()
        felt = await asyncio.gather(*clients)

        assert in_place.is_set()
        # `half` spares some of them.
        assert any(felt) if scenario.name == "half" else all(felt)
        assert await toxiproxy.call("get", f"/proxies/{proxy.name}/toxics") == []
        connection = await connect(database, proxy)
        assert await connection.fetchval("SELECT 1") == 1
        connection.terminate()
    finally:
        await proxy.destroy()


@pytest.mark.parametrize("scenario", [it for it in SCENARIOS if it.own_server], ids=lambda it: str(it.name))
async def test_a_server_of_our_own_is_down_once_the_fault_is_in_place_and_up_after_it(scenario: Any) -> None:
    async with EmbeddedServer.create() as server:
        first, seen = server.pid, []
        await scenario.strike(Site(proxies=[], server=server), LASTS_S, lambda: seen.append(server.pid))

        assert seen == [None]
        assert server.pid not in (None, first)


async def test_a_server_that_is_not_our_own_is_never_stopped() -> None:
    for scenario in SCENARIOS:
        if scenario.own_server:
            with pytest.raises(ValueError, match="one of our own"):
                await scenario.strike(Site(proxies=[]), LASTS_S, lambda: None)
