"""A hop in front of a database that can hold one reply in its middle: some of it has gone on, the rest waits.

Toxiproxy cannot: adding or removing a toxic flushes what the others hold back (link.go, `AddToxic`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

# A reply shorter than this, such as that to BEGIN, goes through whole.
SMALL_BYTES = 600
_FIRST_BYTES = 100
_CHUNK_BYTES = 65536


class Gate:
    """A listening hop; made by `before`. Until `arm` it passes everything."""

    def __init__(self, upstream: tuple[str, int]) -> None:
        self.address = ("127.0.0.1", 0)
        self.held = asyncio.Event()
        self._upstream = upstream
        self._released = asyncio.Event()
        self._is_armed = False
        self._links: set[asyncio.Task[None]] = set()

    @classmethod
    @asynccontextmanager
    async def before(cls, upstream: tuple[str, int]) -> AsyncIterator[Gate]:
        """Listen on 127.0.0.1 and lead to `upstream` until the end of the block."""
        gate = cls(upstream)
        server = await asyncio.start_server(gate._link, "127.0.0.1")
        gate.address = server.sockets[0].getsockname()
        try:
            yield gate
        finally:
            server.close()
            for link in gate._links:
                link.cancel()
            await asyncio.gather(*gate._links, return_exceptions=True)

    def arm(self) -> None:
        """Hold the next reply that is not small; `held` says when."""
        self._is_armed = True

    def release(self) -> None:
        """Let the rest of the reply go on."""
        self._released.set()

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._links.add(task)
        try:
            with suppress(OSError):
                far_reader, far_writer = await asyncio.open_connection(*self._upstream)
                try:
                    await _first_to_end(self._pass(reader, far_writer), self._hold(far_reader, writer))
                finally:
                    far_writer.close()
        finally:
            writer.close()
            self._links.discard(task)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(_CHUNK_BYTES):
                writer.write(data)
                await writer.drain()

    async def _hold(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(_CHUNK_BYTES):
                if self._is_armed and len(data) >= SMALL_BYTES:
                    self._is_armed = False
                    writer.write(data[:_FIRST_BYTES])
                    await writer.drain()
                    self.held.set()
                    await self._released.wait()
                    data = data[_FIRST_BYTES:]
                writer.write(data)
                await writer.drain()


async def _first_to_end(*ways: Coroutine[Any, Any, None]) -> None:
    """Run both ways of a link until one is closed."""
    tasks = [asyncio.create_task(way) for way in ways]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
