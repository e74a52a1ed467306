"""One deadline per call, turned into an instant on entry; everything below waits until then and no longer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

Clock = Callable[[], float]


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
