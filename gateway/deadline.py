"""One deadline per call, turned into an instant on entry, and what the time until then is spent on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

Clock = Callable[[], float]
# What a call can be waiting for. "retry" is the pause before another try.
Stage = Literal["pool", "name look-up", "connect", "TLS", "login", "statement", "retry"]

# What is awaited at each stage, for people.
AWAITED: Final[Mapping[Stage, str]] = {
    "pool": "a free connection",
    "name look-up": "the name look-up",
    "connect": "the server to accept the connection",
    "TLS": "the TLS handshake",
    "login": "the login",
    "statement": "the statement's answer",
    "retry": "the next try",
}


@dataclass(frozen=True, slots=True)
class Deadline:
    """The instant, on `clock`, at which a call has to be answered; `budget_s` is what it had in all."""

    at: float
    budget_s: float
    clock: Clock = time.monotonic

    @classmethod
    def after(cls, seconds: float, *, clock: Clock = time.monotonic) -> Deadline:
        """Return the deadline `seconds` from now."""
        return cls(clock() + seconds, seconds, clock)

    def left(self, *, at_most: float | None = None) -> float:
        """Return the seconds that are left, never below zero, never above `at_most`."""
        left = max(0.0, self.at - self.clock())
        return left if at_most is None else min(left, at_most)

    def scope(self, *, at_most: float | None = None) -> asyncio.Timeout:
        """Return `asyncio.timeout` for what is left; it raises TimeoutError when that is over."""
        return asyncio.timeout(self.left(at_most=at_most))


@dataclass(slots=True)
class Stages:
    """What one call waits for, and for how many seconds it has waited for what, all its tries together."""

    clock: Clock = time.monotonic
    now: Stage = "pool"
    since: float = field(init=False)
    spent: dict[Stage, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.since = self.clock()

    def enter(self, stage: Stage) -> None:
        """Note that the call waits for `stage` from now on."""
        moment = self.clock()
        self.spent[self.now] = self.spent.get(self.now, 0.0) + moment - self.since
        self.now, self.since = stage, moment

    def told(self) -> str:
        """Return where the time went, for people: `29.8 s for the name look-up, 0.2 s for a free connection`."""
        self.enter(self.now)
        parts = sorted(((s, stage) for stage, s in self.spent.items() if s >= 0.05), reverse=True)  # noqa: PLR2004 - what rounds to 0.0 s says nothing
        return ", ".join(f"{s:.1f} s for {AWAITED[stage]}" for s, stage in parts)
