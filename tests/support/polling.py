"""Waiting for a state, with a bound: the only way in which a test waits."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

POLL_S = 0.02


async def until(condition: Callable[[], bool | Awaitable[bool]], *, within_s: float = 15.0) -> bool:
    """Ask again and again, without a pause longer than POLL_S; return whether it came true in time."""
    give_up = time.monotonic() + within_s
    while True:
        answer = condition()
        if await answer if inspect.isawaitable(answer) else answer:
            return True
        if time.monotonic() > give_up:
            return False
        await asyncio.sleep(POLL_S)
