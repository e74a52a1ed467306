"""When to stop asking: one breaker per profile, which knows nothing of connections.

It opens when the dials of one call's whole time have failed, answers without asking while it is open, lets one probe
through every two seconds, and closes at the first success. Only failures to reach the database count, never a caller's
SQL.
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
    _probes: int = field(default=0, init=False)
    has_answered: bool = field(default=False, init=False)
    _answered: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    @property
    def state(self) -> str:
        """Return "closed", "open" or "half-open" (a probe is under way)."""
        if self._why is None:
            return "closed"
        return "half-open" if self._probes else "open"

    def admit(self) -> bool:
        """Let a call through, or raise Unavailable with since when, why, and when the next try is.

        Returns whether the call is a probe: it should try once, and must end in `succeeded`, `failed` or `released`.
        One that is still under way, on a slow link or in a silence, keeps nobody from the next.
        """
        if self._why is None:
            return False
        now = self.clock()
        if now >= self._next_probe:
            self._next_probe = now + PROBE_EVERY_S
            self._probes += 1
            return True
        wait_s = self.retry_after_s()
        since = datetime.fromtimestamp(self._since, UTC).strftime("%H:%M:%SZ")
        when = f"{'a try is under way, ' if self._probes else ''}the next try is in {wait_s:.1f} s"
        raise Unavailable(
            f"profile {self.profile} has been unreachable since {since}: {self._why.message}; {when}",
            hint=self._why.hint,
            profile=self.profile,
            details={"retry_after_s": wait_s},
        )

    def retry_after_s(self) -> float:
        """Return in how many seconds the next probe is let through, to a tenth."""
        return round(max(0.0, self._next_probe - self.clock()), 1)

    def succeeded(self) -> None:
        """Take note that the database answered: the breaker closes."""
        self._why = None
        self._probes = 0
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

    def failed(self, error: GatewayError, *, is_probe: bool) -> None:
        """Take note that a call's whole time went by, or a probe's, without reaching the database."""
        self._ended(is_probe=is_probe)
        if self._why is None:
            self._since = self.wall()
            # Only now: calls that began before and fail after it must not put the probe off.
            self._next_probe = self.clock() + PROBE_EVERY_S
        self._why = error

    def released(self, *, is_probe: bool) -> None:
        """Take note that a call ended without saying anything about the connection, such as a cancelled one."""
        self._ended(is_probe=is_probe)
        if is_probe:
            self._next_probe = self.clock()

    def _ended(self, *, is_probe: bool) -> None:
        if is_probe:
            self._probes = max(0, self._probes - 1)
