"""One line of the report: a measure, ours, what it is compared with, their ratio, and the goal beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A measure with its goal; nothing is asserted, `is_met` is None where there is no goal.

    compared: the number that the goal speaks of, a ratio where it can be. most: the goal, an upper bound.
    """

    group: str
    measure: str
    ours: str
    other: str = ""
    compared: float
    unit: str = "x"
    most: float | None = None

    @property
    def is_met(self) -> bool | None:
        return None if self.most is None else self.compared <= self.most

    def to_dict(self) -> dict[str, Any]:
        """Return the line for `--json`."""
        return {
            "group": self.group,
            "measure": self.measure,
            "ours": self.ours,
            "other": self.other,
            "compared": round(self.compared, 3),
            "unit": self.unit,
            "most": self.most,
            "met": self.is_met,
        }
