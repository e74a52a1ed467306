"""What is written down while a scenario of a drill runs: calls, the probe's tries, neighbours' calls, the fault.

Times are seconds since the scenario began. Nothing is judged here; `drill_report.py` does that.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

OK = "ok"
# The outcome of a call that had not ended when everything was over: no error code, since nobody was told one.
UNANSWERED = "unanswered"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One read of the load.

    outcome: "ok" or an error code. retried_s: when it was about to be tried again. turned_away: by an open breaker, in
    milliseconds, or as the one try that it allows.
    """

    caller: int
    began_s: float
    ended_s: float
    outcome: str
    retried_s: tuple[float, ...] = ()
    turned_away: bool = False
    message: str = ""

    @property
    def took_s(self) -> float:
        return self.ended_s - self.began_s

    @property
    def retries(self) -> int:
        return len(self.retried_s)

    @property
    def is_answered(self) -> bool:
        return self.outcome == OK


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeTry:
    """One try of the independent probe: a connection of its own through the same proxy, and a statement."""

    began_s: float
    ended_s: float
    answered: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighbourCall:
    """One read of another profile, through the same gateway."""

    profile: str
    began_s: float
    ended_s: float
    outcome: str

    @property
    def took_s(self) -> float:
        return self.ended_s - self.began_s


@dataclass(slots=True, kw_only=True)
class Fault:
    """When the fault began, when it was wholly in place, and when it was taken away; None before that."""

    struck_s: float | None = None
    in_place_s: float | None = None
    ended_s: float | None = None


@dataclass(slots=True, kw_only=True)
class Recording:
    """All that was seen in one scenario.

    call_s: the time that a call of the drilled profile has. ended_s: when the last call was over.
    """

    scenario: str
    summary: str
    call_s: float
    clock: Callable[[], float] = time.monotonic
    zero: float = 0.0
    fault: Fault = field(default_factory=Fault)
    calls: list[Call] = field(default_factory=list)
    probes: list[ProbeTry] = field(default_factory=list)
    neighbours: list[NeighbourCall] = field(default_factory=list)
    ended_s: float = 0.0

    def now(self) -> float:
        """Return the seconds since the scenario began."""
        return self.clock() - self.zero

    def back_s(self) -> float | None:
        """Return when the database was reachable again: the first answer to a probe sent after the fault ended."""
        ended_s = self.fault.ended_s
        if ended_s is None:
            return None
        return min((p.ended_s for p in self.probes if p.answered and p.began_s >= ended_s), default=None)

    def recovered_s(self) -> float | None:
        """Return when the first read after the fault was answered."""
        ended_s = self.fault.ended_s
        if ended_s is None:
            return None
        return min((call.ended_s for call in self.calls if call.is_answered and call.ended_s >= ended_s), default=None)
