"""When to stop asking: one breaker per profile, which knows nothing of connections.

It opens when the dials of one call's whole time have failed, answers without asking while it is open, lets one probe
through at a time, and closes at the first success. Only failures to reach the database count, never a caller's SQL.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from gateway.errors import GatewayError, Unavailable

# A probe at least this often while calls come.
PROBE_EVERY_S: Final = 2.0
# A pause is never cut to less than a part of this, so that one call's successes do not make another's tries a storm.
_SHORTEST_PAUSE_S: Final = 0.4


@dataclass(slots=True)
class Breaker:
    """The state of one profile. `clock` counts seconds; `wall` tells people the time."""

    profile: str
    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    _why: GatewayError | None = field(default=None, init=False)
    _since: float = field(default=0.0, init=False)
    _next_probe: float = field(default=0.0, init=False)
    _is_probing: bool = field(default=False, init=False)
    has_answered: bool = field(default=False, init=False)
    _answered: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    @property
    def state(self) -> str:
        """Return "closed", "open" or "half-open" (a probe is under way)."""
        if self._why is None:
            return "closed"
        return "half-open" if self._is_probing else "open"

    def admit(self) -> bool:
        """Let a call through, or raise Unavailable with since when, why, and when the next try is.

        Returns whether the call is the probe: it should be brief, and must end in `succeeded`, `failed` or `released`.
        """
        if self._why is None:
            return False
        now = self.clock()
        if not self._is_probing and now >= self._next_probe:
            self._is_probing = True
            return True
        wait_s = max(0.0, self._next_probe - now)
        since = datetime.fromtimestamp(self._since, UTC).strftime("%H:%M:%SZ")
        when = "a try is under way" if self._is_probing else f"the next try is in {wait_s:.1f} s"
        raise Unavailable(
            f"profile {self.profile} has been unreachable since {since}: {self._why.message}; {when}",
            hint=self._why.hint,
            profile=self.profile,
            details={"retry_after_s": round(wait_s, 1)},
        )

    def succeeded(self) -> None:
        """Take note that the database answered: the breaker closes."""
        self._why = None
        self._is_probing = False
        self.has_answered = True
        # Whoever waits now wakes; whoever comes later waits for the next answer.
        self._answered.set()
        self._answered = asyncio.Event()

    async def wait(self, seconds: float) -> None:
        """Pause before another try: for `seconds`, or until another call has been answered meanwhile."""
        answered, started = self._answered, self.clock()
        await asyncio.sleep(min(seconds, _SHORTEST_PAUSE_S * random.random()))  # noqa: S311 - jitter is no secret
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds - (self.clock() - started)):
                await answered.wait()

    def failed(self, error: GatewayError) -> None:
        """Take note that a call's whole time went by, or a probe's, without reaching the database."""
        if self._why is None:
            self._since = self.wall()
        self._why = error
        self._is_probing = False
        self._next_probe = self.clock() + PROBE_EVERY_S

    def released(self) -> None:
        """Take note that a probe ended without saying anything about the database, such as a cancelled one."""
        self._is_probing = False
