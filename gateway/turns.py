"""Whose turn it is to dial: a server that comes back is not to be met by all callers at once."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from gateway.deadline import Deadline, Stages
from gateway.errors import Unavailable
from gateway.profiles import Profile

_AT_ONCE: Final = 2
# Who gets the turn with less than this left could not dial any more.
_TOO_LATE_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Asking:
    """For whom a dial is made."""

    deadline: Deadline
    stages: Stages


class Turns:
    """At most two dials of a profile at once."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._places = asyncio.Semaphore(_AT_ONCE)
        # What those who dial are waiting for.
        self._dialling: dict[int, Stages] = {}

    @contextlib.asynccontextmanager
    async def turn(self, asking: Asking) -> AsyncIterator[None]:
        """Wait for a place to dial from; raises Unavailable that says what the dials before this one waited for."""
        started, before = time.monotonic(), list(self._dialling.values())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, asking.deadline.left() - _TOO_LATE_S)):
                await self._places.acquire()
                self._dialling[id(asking)] = asking.stages
        if id(asking) not in self._dialling:
            told = f": the dials before this one waited {before[0].told()}" if before else ""
            raise Unavailable(
                f"no turn to connect to {self._profile.endpoints[0]} within {time.monotonic() - started:.1f} s{told}",
                hint="`pg-gateway check` names the step that hangs.",
                profile=self._profile.name,
                repeat="always",
            )
        try:
            yield
        finally:
            del self._dialling[id(asking)]
            self._places.release()
