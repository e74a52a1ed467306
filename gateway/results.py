"""What a read gives back: one page of values, whose rows the database has already written as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal

import orjson

TruncatedBy = Literal["rows", "bytes"]

# Column names are PostgreSQL's, which may hold any character; keys are ours.
_OPTIONS: Final = orjson.OPT_NON_STR_KEYS


def to_json(value: Any) -> bytes:
    """Return the shortest JSON of `value`; parts that are JSON already come as `orjson.Fragment`."""
    return orjson.dumps(value, option=_OPTIONS)


@dataclass(slots=True, kw_only=True)
class ResultPage:
    """A page: `columns` once, `rows` as JSON arrays joined by commas, and what was left out.

    next: what continues after the last row, where the tool can. hint: how to read on. extra: what comes first.
    """

    columns: list[dict[str, str]]
    rows: bytes
    row_count: int
    truncated_by: TruncatedBy | None = None
    hint: str | None = None
    next: Any = None
    extra: dict[str, Any] = field(default_factory=dict)

    def to_dict(self, profile: str) -> dict[str, Any]:
        """Return the page as callers see it, rows as a fragment of finished JSON."""
        body: dict[str, Any] = {"profile": profile, **self.extra}
        body["columns"] = self.columns
        body["rows"] = orjson.Fragment(b"[" + self.rows + b"]")
        body["row_count"] = self.row_count
        body["truncated"] = self.truncated_by is not None
        if self.truncated_by is not None:
            body["truncated_by"] = self.truncated_by
        if self.next is not None:
            body["next"] = self.next
        if self.hint is not None:
            body["hint"] = self.hint
        return body
