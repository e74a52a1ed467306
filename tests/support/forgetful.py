"""A relay that forgets connections which are idle for too long, as Azure's load balancer does after four minutes.

Neither side is told: what it sends from then on is swallowed, and its connection stays open.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class Flow:
    """One connection through the relay. met: somebody sent something after it was forgotten."""

    heard_at: float
    is_forgotten: bool = False
    met: bool = False


@dataclass
class Relay:
    """What goes through a port on 127.0.0.1; made by `run`."""

    forget_s: float
    port: int = 0
    flows: list[Flow] = field(default_factory=list)

    @classmethod
    @asynccontextmanager
    async def run(cls, host: str, port: int, *, forget_s: float) -> AsyncIterator[Relay]:
        """Stand before host and port, and forget what is idle for `forget_s`."""
        relay = cls(forget_s)
        running: set[asyncio.Task[None]] = set()

        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            running.add(task)
            with contextlib.closing(writer):
                await relay._carry(reader, writer, *await asyncio.open_connection(host, port))
            running.discard(task)

        async with await asyncio.start_server(take, "127.0.0.1", 0) as server:
            relay.port = server.sockets[0].getsockname()[1]
            yield relay
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        behind_reader: asyncio.StreamReader,
        behind_writer: asyncio.StreamWriter,
    ) -> None:
        flow = Flow(time.monotonic())
        self.flows.append(flow)
        with contextlib.closing(behind_writer):
            ways = [
                asyncio.create_task(self._one_way(flow, reader, behind_writer)),
                asyncio.create_task(self._one_way(flow, behind_reader, writer)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.wait(ways)

    async def _one_way(self, flow: Flow, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65_536):
                now = time.monotonic()
                flow.is_forgotten = flow.is_forgotten or now - flow.heard_at > self.forget_s
                flow.heard_at = now
                if flow.is_forgotten:
                    flow.met = True
                    continue
                target.write(data)
                await target.drain()

    @property
    def met(self) -> int:
        """How many connections somebody used after they were forgotten."""
        return sum(flow.met for flow in self.flows)

    def has_forgotten_all(self) -> bool:
        """Say whether every connection has been idle for too long by now."""
        now = time.monotonic()
        return all(now - flow.heard_at > self.forget_s for flow in self.flows)
