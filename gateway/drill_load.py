"""The load of a drill: callers that read in a closed loop by the real tool, and a quieter loop for each neighbour.

The reads touch no table. Most take some milliseconds; one caller always has a longer one under way, so that there is
something in mid-query whenever the fault strikes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final

from gateway.app import Gateway
from gateway.drill_records import OK, UNANSWERED, Call, NeighbourCall, Recording
from gateway.errors import GatewayError, PermissionDenied
from gateway.progress import Tell, Waiting
from gateway.tools.execute_query import EXECUTE_QUERY

# What the drill's own gateway has to allow; waiting in the database costs it nothing.
ALLOWED_FUNCTIONS: Final = ("pg_sleep",)
SHORT: Final = "SELECT n, md5(n::text) AS hash FROM generate_series(1, 100) AS n, pg_sleep(0.02)"
LONG: Final = "SELECT n, md5(n::text) AS hash FROM generate_series(1, 100) AS n, pg_sleep(0.4)"
# For roles that may not wait: some milliseconds, and some hundred, of computing.
_SHORT_BUSY: Final = "SELECT n, md5(n::text) AS hash FROM generate_series(1, 2000) AS n"
_LONG_BUSY: Final = "SELECT count(*) AS count FROM generate_series(1, 1000000) AS n"
_NEIGHBOUR: Final = "SELECT n, md5(n::text) AS hash FROM generate_series(1, 10) AS n"
_NEIGHBOUR_PAUSE_S: Final = 0.05
# After an error that came at once; without it a caller would do nothing but be refused.
_FAILURE_PAUSE_S: Final = 0.05


async def ask(gateway: Gateway, profile: str, *, query: str = _NEIGHBOUR, tell: Tell | None = None) -> None:
    """Run one read of the load by the real tool; raises the GatewayError that a client would be told."""
    await EXECUTE_QUERY.run(gateway, EXECUTE_QUERY.check({"query": query, "profile": profile}), tell=tell)


class Load:
    """What reads through one gateway while a scenario runs."""

    def __init__(self, gateway: Gateway, *, profile: str, callers: int) -> None:
        self._gateway = gateway
        self._profile = profile
        self._callers = callers
        self._reads = (SHORT, LONG)
        self._is_open = False

    async def warm_up(self, neighbours: Sequence[str]) -> None:
        """Open the connections that the load needs; raises the GatewayError of a profile that does not answer."""
        try:
            await self._ask(self._reads[0], self._profile)
        except PermissionDenied:
            self._reads = (_SHORT_BUSY, _LONG_BUSY)
            await self._ask(self._reads[0], self._profile)
        first = (self._ask(self._read_of(caller), self._profile) for caller in range(self._callers))
        await asyncio.gather(*first, *(self._ask(_NEIGHBOUR, neighbour) for neighbour in neighbours))

    def _read_of(self, caller: int) -> str:
        return self._reads[1 if caller == 0 and self._callers > 1 else 0]

    async def _ask(self, query: str, profile: str, tell: Tell | None = None) -> None:
        await ask(self._gateway, profile, query=query, tell=tell)

    async def call_on(self, caller: int, recording: Recording, stop: asyncio.Event) -> None:
        """Read again and again until `stop` is set; the last read is waited for."""
        while not stop.is_set():
            began_s = recording.now()
            outcome, message, turned_away, was_open = UNANSWERED, "", False, self._is_open
            retried_s: list[float] = []

            def hear(waiting: Waiting, retried_s: list[float] = retried_s) -> None:
                if waiting.why is not None:
                    retried_s.append(recording.now())

            try:
                await self._ask(self._read_of(caller), self._profile, hear)
                outcome, self._is_open = OK, False
            except GatewayError as error:
                outcome, message = error.code, error.message
                # Whom the breaker turns away has waited for nothing. The one call that it lets through meanwhile is not
                # tried again, and fares no better than the others.
                is_refused = "retry_after_s" in error.details and "waited_for" not in error.details
                turned_away = is_refused or (was_open and not retried_s)
                self._is_open = self._is_open or turned_away
            finally:
                recording.calls.append(
                    Call(
                        caller=caller,
                        began_s=began_s,
                        ended_s=recording.now(),
                        outcome=outcome,
                        retried_s=tuple(retried_s),
                        turned_away=turned_away,
                        message=message,
                    )
                )
            if outcome != OK:
                await pause(stop, _FAILURE_PAUSE_S)

    async def ask_neighbour(self, profile: str, recording: Recording, stop: asyncio.Event) -> None:
        """Read from another profile, twenty times a second at most, until `stop` is set."""
        while not stop.is_set():
            began_s = recording.now()
            outcome = OK
            try:
                await self._ask(_NEIGHBOUR, profile)
            except GatewayError as error:
                outcome = error.code
            recording.neighbours.append(
                NeighbourCall(profile=profile, began_s=began_s, ended_s=recording.now(), outcome=outcome)
            )
            await pause(stop, _NEIGHBOUR_PAUSE_S)


async def pause(stop: asyncio.Event, seconds: float) -> None:
    """Wait so long, or until `stop` is set."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
