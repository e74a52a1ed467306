"""A steady load of reads, and what became of each while somebody disturbed the database."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from gateway.app import Gateway
from gateway.errors import GatewayError
from tests.support.gateway import call
from tests.support.polling import until


@dataclass
class Load:
    """What a steady load of reads has seen."""

    answered: int = 0
    lost: list[GatewayError] = field(default_factory=list)
    longest_s: float = 0.0


async def under_load(
    gateway: Gateway, profile: str, disturb: Callable[[], Awaitable[None]], *, callers: int = 4
) -> Load:
    """Read in a closed loop while `disturb` runs, and until an answer has come after it."""
    load = Load()
    disturbed = asyncio.Event()

    async def read() -> None:
        while not disturbed.is_set():
            started = time.monotonic()
            try:
                await call(
                    gateway, "execute_query", query="SELECT count(*) FROM generate_series(1, 5000)", profile=profile
                )
                load.answered += 1
            except GatewayError as error:
                load.lost.append(error)
            load.longest_s = max(load.longest_s, time.monotonic() - started)

    readers = [asyncio.create_task(read()) for _ in range(callers)]
    assert await until(lambda: load.answered > callers)
    await disturb()
    seen = load.answered
    assert await until(lambda: load.answered > seen + callers)
    disturbed.set()
    await asyncio.gather(*readers)
    return load
