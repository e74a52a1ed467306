"""Our Toxiproxy itself: what it does to a connection, what it refuses, and that it goes with us."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.errors import ConfigError
from gateway.toxiproxy import Proxy, Toxiproxy, find
from tests.support.polling import until

pytestmark = pytest.mark.anyio


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1000):
        writer.write(data)
    writer.close()


@pytest.fixture
async def echo() -> AsyncIterator[tuple[str, int]]:
    server = await asyncio.start_server(_echo, "127.0.0.1")
    yield server.sockets[0].getsockname()
    server.close()


@pytest.fixture
async def proxy(toxiproxy: Toxiproxy, echo: tuple[str, int]) -> AsyncIterator[Proxy]:
    made = await toxiproxy.proxy("echo", echo)
    yield made
    await made.destroy()


async def echoed(proxy: Proxy, text: bytes = b"hello") -> bytes:
    """Return what comes back through a new connection until as much has come as was sent, or its end."""
    reader, writer = await asyncio.open_connection(*proxy.address)
    try:
        async with asyncio.timeout(5):
            writer.write(text)
            try:
                return await reader.readexactly(len(text))
            except asyncio.IncompleteReadError as error:
                return error.partial
    finally:
        writer.close()


async def seconds_of(proxy: Proxy) -> float:
    started = time.monotonic()
    assert await echoed(proxy) == b"hello"
    return time.monotonic() - started


async def test_a_toxic_works_until_it_is_removed_and_can_be_changed_meanwhile(proxy: Proxy) -> None:
    name = await proxy.add("latency", latency=300)
    slow = await seconds_of(proxy)
    await proxy.change(name, latency=0)
    changed = await seconds_of(proxy)
    await proxy.change(name, latency=300)
    await proxy.remove(name)
    removed = await seconds_of(proxy)

    assert slow >= 0.3
    assert changed < 0.3
    assert removed < 0.3


async def test_a_toxic_of_no_toxicity_does_nothing_until_it_gets_some(proxy: Proxy) -> None:
    name = await proxy.add("limit_data", bytes=2, toxicity=0.0)
    assert await echoed(proxy) == b"hello"

    await proxy.change(name, toxicity=1.0)

    assert await echoed(proxy) == b"he"


async def test_a_misspelt_attribute_is_refused_and_leaves_nothing_behind(proxy: Proxy) -> None:
    with pytest.raises(ValueError, match="a toxic of type latency has no latenzy: it has latency, jitter"):
        await proxy.add("latency", latenzy=300)

    assert await seconds_of(proxy) < 0.3
    assert await proxy.add("latency", latency=1) == "latency_downstream"
    with pytest.raises(ValueError, match="has no delay"):
        await proxy.change("latency_downstream", delay=1)


async def test_what_toxiproxy_refuses_is_said_in_its_own_words(proxy: Proxy, toxiproxy: Toxiproxy) -> None:
    with pytest.raises(match="Toxiproxy refuses: invalid toxic type"):
        await proxy.add("gravity")
    with pytest.raises(match="Toxiproxy refuses: toxic not found"):
        await proxy.remove("nothing")
    with pytest.raises(match="Toxiproxy refuses: proxy already exists"):
        await toxiproxy.proxy("echo", ("127.0.0.1", 1))


async def test_down_refuses_and_up_listens_at_the_same_address(proxy: Proxy) -> None:
    reader, writer = await asyncio.open_connection(*proxy.address)
    await proxy.down()
    assert await reader.read() == b""
    writer.close()
    with pytest.raises(ConnectionRefusedError):
        await echoed(proxy)

    await proxy.up()

    assert await echoed(proxy) == b"hello"


async def test_clear_takes_everything_away(proxy: Proxy) -> None:
    await proxy.add("timeout", timeout=0)
    await proxy.add("timeout", stream="upstream", timeout=0)
    await proxy.down()

    await proxy.clear()

    assert await echoed(proxy) == b"hello"


async def test_a_proxy_can_be_pointed_elsewhere(proxy: Proxy, echo: tuple[str, int]) -> None:
    await proxy.point_at(("127.0.0.1", 1))
    assert await echoed(proxy) == b""

    await proxy.point_at(echo)

    assert await echoed(proxy) == b"hello"


async def test_two_servers_of_one_process_do_not_know_each_other(proxy: Proxy, echo: tuple[str, int]) -> None:
    async with Toxiproxy.run() as other:
        second = await other.proxy("echo", echo)
        await second.add("latency", latency=300)

        assert await seconds_of(second) >= 0.3
        assert await seconds_of(proxy) < 0.3


async def test_what_is_not_there_is_named_with_the_way_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="was not found") as caught:
        find(tmp_path / "toxiproxy-server")

    assert "go install github.com/Shopify/toxiproxy/v2/cmd/server@v" in str(caught.value.hint)


async def test_what_is_no_toxiproxy_is_said_not_to_start(tmp_path: Path) -> None:
    program = tmp_path / "toxiproxy-server"
    program.write_text("#!/bin/sh\necho this is something else >&2; exit 1\n")
    program.chmod(0o755)

    with pytest.raises(ConfigError, match="does not start: this is something else"):
        async with Toxiproxy.run(binary=program):
            pass


async def test_a_killed_process_leaves_no_server_behind(toxiproxy: Toxiproxy) -> None:  # noqa: ARG001 - there is one
    script = """
        import asyncio
        from gateway.toxiproxy import Toxiproxy
        async def main():
            async with Toxiproxy.run() as server:
                proxy = await server.proxy("p", ("127.0.0.1", 1))
                print(*proxy.address, flush=True)
                await asyncio.sleep(60)
        asyncio.run(main())
    """
    # The variables of a company's proxy do not keep it from its own machine.
    environ = {**os.environ, "http_proxy": "http://127.0.0.1:1", "all_proxy": "http://127.0.0.1:1"}
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", textwrap.dedent(script), stdout=asyncio.subprocess.PIPE, env=environ
    )
    assert child.stdout is not None
    host, port = (await child.stdout.readline()).split()

    child.send_signal(signal.SIGKILL)
    await child.wait()

    async def is_gone() -> bool:
        try:
            _, writer = await asyncio.open_connection(host.decode(), int(port))
        except ConnectionRefusedError:
            return True
        writer.close()
        return False

    assert await until(is_gone)
