"""What a drill has to say: the promises, a verdict in numbers for each scenario, and the report of the whole. Pure.

`drill_verdict.py` is who judges.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gateway.drill_records import Recording


@dataclass(frozen=True, slots=True, kw_only=True)
class Promises:
    """The bounds of a verdict.

    grace_s: a call may outlive its time by so much. recover_s: from the probe's first answer to the first read's.
    neighbour_factor: how much a neighbour's p95 may grow. neighbour_floor_s: growth that means nothing, since windows
    without any fault differ by as much on a busy machine (measured in docs/resilience.md). neighbour_calls: with fewer
    calls in a window, its p95 is the accident of one or two of them, and is not judged.
    """

    grace_s: float = 2.0
    recover_s: float = 3.0
    neighbour_factor: float = 1.2
    neighbour_floor_s: float = 0.005
    neighbour_calls: int = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighbourNumbers:
    """Another profile's p95: before the fault; from the fault until reads were answered again, or as long as before.

    fewest: calls in the shorter of the two windows.
    """

    profile: str
    before_s: float | None
    during_s: float | None
    fewest: int
    failed: int

    def most_s(self, promises: Promises) -> float | None:
        """Return what the p95 may grow to, None where there were too few calls to say."""
        if self.before_s is None or self.fewest < promises.neighbour_calls:
            return None
        return max(self.before_s * promises.neighbour_factor, self.before_s + promises.neighbour_floor_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One scenario in numbers. reasons: the broken promises, one clause each; without any it is passed.

    failed: how many by each code, those that an open breaker turned away included. notice_s: from the fault to the
    first error or retry. unreachable_s: from the fault to the probe's first answer after it, None where each of its
    tries was answered. recover_s: from that answer to the first answered read.
    """

    scenario: str
    summary: str
    calls: int
    answered: int
    failed: dict[str, int]
    turned_away: int
    lost: int
    longest_s: float
    notice_s: float | None
    unreachable_s: float | None
    recover_s: float | None
    retried: int
    retries: int
    neighbours: tuple[NeighbourNumbers, ...]
    reasons: tuple[str, ...]

    @property
    def is_passed(self) -> bool:
        return not self.reasons

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as JSON can hold them, seconds to the tenth of a millisecond."""
        return {
            "scenario": self.scenario,
            "summary": self.summary,
            "verdict": "pass" if self.is_passed else "fail",
            "reasons": list(self.reasons),
            "calls": self.calls,
            "answered": self.answered,
            "failed": self.failed,
            "turned_away": self.turned_away,
            "lost_although_savable": self.lost,
            "longest_s": _rounded(self.longest_s),
            "notice_s": _rounded(self.notice_s),
            "unreachable_s": _rounded(self.unreachable_s),
            "recover_s": _rounded(self.recover_s),
            "retried_calls": self.retried,
            "retries": self.retries,
            "neighbours": [
                {
                    "profile": it.profile,
                    "p95_before_s": _rounded(it.before_s),
                    "p95_during_s": _rounded(it.during_s),
                    "calls": it.fewest,
                    "failed": it.failed,
                }
                for it in self.neighbours
            ],
        }


@dataclass(slots=True, kw_only=True)
class Report:
    """A whole drill. left_out: other profiles that did not answer, and why. interrupted: the scenario under way."""

    profile: str
    address: str
    call_s: float
    callers: int
    seconds: float
    command: str
    version: str
    began_at: str
    promises: Promises = field(default_factory=Promises)
    neighbours: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    done: list[tuple[Recording, Verdict]] = field(default_factory=list)
    interrupted: str | None = None

    @property
    def verdicts(self) -> list[Verdict]:
        return [verdict for _, verdict in self.done]

    @property
    def is_passed(self) -> bool:
        return all(verdict.is_passed for verdict in self.verdicts)

    def to_dict(self) -> dict[str, Any]:
        """Return the drill as JSON can hold it."""
        keys = ("profile", "address", "call_s", "callers", "seconds", "command", "version", "began_at")
        return {
            **{key: getattr(self, key) for key in keys},
            "verdict": "pass" if self.is_passed else "fail",
            "interrupted": self.interrupted,
            "neighbours": self.neighbours,
            "left_out": self.left_out,
            "scenarios": [verdict.to_dict() for verdict in self.verdicts],
        }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)
