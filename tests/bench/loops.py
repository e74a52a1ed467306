"""Closed loops: so many callers, each asking again as soon as it has its answer, bounded in time and count."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tests.bench.wires import Call

Ask = Callable[[int], tuple[str, dict[str, Any]]]
_MOST_CALLS: Final = 50_000


@dataclass(slots=True)
class Sample:
    """Calls that were answered, the seconds that it took, and each one's time."""

    rounds: list[float] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)

    @property
    def per_s(self) -> float:
        """The median of the rounds' calls per second."""
        return statistics.median(self.rounds)

    @property
    def spread(self) -> float:
        """The quickest round beside the slowest: far from 1, something else was using the machine."""
        return max(self.rounds) / min(self.rounds)

    def quantile_ms(self, part: float) -> float:
        """Return the time within which that part of the calls was answered."""
        ordered = sorted(self.latencies_s)
        return ordered[min(len(ordered) - 1, int(part * len(ordered)))] * 1000

    def to_dict(self) -> dict[str, float]:
        """Return what a report needs."""
        return {
            "per_s": round(self.per_s, 1),
            "p50_ms": round(self.quantile_ms(0.5), 3),
            "p99_ms": round(self.quantile_ms(0.99), 3),
            "calls": len(self.latencies_s),
            "spread": round(self.spread, 2),
        }


async def run_round(
    sample: Sample, callers: Sequence[Call], ask: Ask, numbers: Iterator[int], *, seconds: float
) -> None:
    """Let the callers ask for `seconds` and add what was seen to `sample`."""
    latencies: list[float] = []
    started = time.perf_counter()
    until = started + seconds

    async def loop(call: Call) -> None:
        now = time.perf_counter()
        while now < until and len(latencies) < _MOST_CALLS:
            tool, arguments = ask(next(numbers))
            await call(tool, arguments)
            then = now
            now = time.perf_counter()
            latencies.append(now - then)

    await asyncio.gather(*(loop(call) for call in callers))
    sample.rounds.append(len(latencies) / (time.perf_counter() - started))
    sample.latencies_s += latencies
