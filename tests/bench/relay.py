"""A TCP relay on 127.0.0.1 that delays every byte by a fixed time and counts how often the client waited.

A turn is a message of the client's that comes after something of the server's: what a network would make it wait for.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

HOST: Final = "127.0.0.1"
_HEAD_BYTES: Final = 200


@dataclass(frozen=True, slots=True)
class Turn:
    """When a turn began, and the beginning of what the client sent."""

    at: float
    head: bytes


@dataclass(slots=True)
class Relay:
    """What has passed so far; `one_way_s` may be changed at any time."""

    target_port: int
    one_way_s: float = 0.0
    turns: list[Turn] = field(default_factory=list)
    port: int = 0
    last_at: float = 0.0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection until either side ends it."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        line = _Line(self)
        try:
            server_reader, server_writer = await asyncio.open_connection(HOST, self.target_port)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(line.carry(reader, server_writer, from_client=True))
                    group.create_task(line.carry(server_reader, writer, from_client=False))
            finally:
                server_writer.close()
        except* (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self._tasks.discard(task)

    async def quiet(self) -> None:
        """Wait until nothing has passed for a few round trips, the reset after a call included."""
        calm_s = max(0.05, 6 * self.one_way_s)
        give_up = time.monotonic() + 10
        while time.monotonic() - self.last_at < calm_s and time.monotonic() < give_up:  # noqa: ASYNC110 - silence is no event
            await asyncio.sleep(0.01)

    async def end(self) -> None:
        """Cut what is still connected."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)


@dataclass(slots=True)
class _Line:
    relay: Relay
    server_spoke: bool = True

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, from_client: bool) -> None:
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._deliver(queue, writer, from_client=from_client))
            while data := await reader.read(256 * 1024):
                now = self.relay.last_at = time.monotonic()
                if from_client and self.server_spoke:
                    self.server_spoke = False
                    self.relay.turns.append(Turn(now, data[:_HEAD_BYTES]))
                queue.put_nowait((now + self.relay.one_way_s, data))
            queue.put_nowait((time.monotonic() + self.relay.one_way_s, b""))

    async def _deliver(
        self, queue: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter, *, from_client: bool
    ) -> None:
        while True:
            due, data = await queue.get()
            wait_s = due - time.monotonic()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            self.relay.last_at = time.monotonic()
            if not data:
                writer.close()
                return
            if not from_client:
                self.server_spoke = True
            writer.write(data)
            await writer.drain()


@contextlib.asynccontextmanager
async def relay_to(port: int) -> AsyncIterator[Relay]:
    """Listen on a port of its own and carry everything to `port` and back."""
    relay = Relay(port)
    server = await asyncio.start_server(relay.serve, HOST, 0)
    relay.port = server.sockets[0].getsockname()[1]
    try:
        yield relay
    finally:
        server.close()
        await relay.end()
