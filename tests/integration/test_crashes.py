"""A connection that ends without a word: cut on its way, or by a server that went down under the statement."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from gateway.app import Gateway
from gateway.embedded import EmbeddedServer
from gateway.errors import GatewayError, Unavailable
from gateway.profiles import Endpoint, Limits, PoolSettings, Profile, Tls
from gateway.standing import has_crashed
from tests.support.gateway import call, config_of
from tests.support.polling import until
from tests.support.postgres import chosen_binaries

pytestmark = pytest.mark.anyio

# It computes for some seconds.
LONG = "SELECT count(*) AS n FROM generate_series(1, 20000000) AS n"


@pytest.fixture
async def server() -> AsyncIterator[EmbeddedServer]:
    async with EmbeddedServer.create(binaries=chosen_binaries()) as running:
        yield running


def profile_of(server: EmbeddedServer) -> Profile:
    return Profile(
        name="db",
        endpoints=(Endpoint(host=server.host, port=server.port),),
        database="postgres",
        user=server.user,
        password=f"literal:{server.password}",
        tls=Tls(mode="disable"),
        pool=PoolSettings(min=0, max=2),
        limits=Limits(call_s=20.0, statement_s=15.0),
    )


def busy_backend(server: EmbeddedServer) -> int | None:
    """Return the process of a backend of this server that runs a SELECT, by its title."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            title = (entry / "cmdline").read_bytes().rstrip(b"\0").decode(errors="replace")
            # After the name in brackets: the state, then the parent.
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if title.startswith("postgres:") and title.endswith(" SELECT") and parent == server.pid:
            return int(entry.name)
    return None


async def killed_again_and_again(server: EmbeddedServer, killed: list[float]) -> None:
    while True:
        if (pid := await asyncio.to_thread(busy_backend, server)) is not None:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            killed.append(time.monotonic())
        await asyncio.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the backend in /proc")
async def test_a_statement_under_which_the_server_goes_down_is_repeated_once_and_no_more(
    server: EmbeddedServer,
) -> None:
    killed: list[float] = []
    async with Gateway(config_of(profile_of(server)), environ={}) as gateway:
        await call(gateway, "execute_query", query="SELECT 1")
        killer = asyncio.create_task(killed_again_and_again(server, killed))
        with pytest.raises(GatewayError) as caught:
            await call(gateway, "execute_query", query=LONG)
        killer.cancel()
        await asyncio.wait([killer])

    assert len(killed) == 2
    assert isinstance(caught.value, Unavailable)


async def test_a_server_tells_whether_it_went_down_and_an_orderly_restart_is_no_crash(server: EmbeddedServer) -> None:
    async def tells(within_s: float) -> bool:
        connection = await asyncpg.connect(server.dsn())
        try:
            return await has_crashed(connection, profile_of(server), within_s=within_s)
        finally:
            await connection.close(timeout=5)

    async def is_old() -> bool:
        return not await tells(1.0)

    # A server that was just made has counted for no longer than after a crash.
    assert await until(is_old)
    await server.restart()
    assert not await tells(1.0)

    await server.stop("immediate")
    await server.start()
    assert await tells(5.0)
