"""What is told about each call and each dial, and the one way to tell it.

Observers are plain callables; an observer's failure is logged and never fails a call.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class CallRecord:
    """One call of one tool on one profile, refusals included.

    outcome: "ok" or an error code; it starts as a failure so that a call that never ends well is never
    counted as one. seconds: from entry to answer. waited_s: for a free connection. answer_bytes: bytes
    of JSON in the answer.
    """

    tool: str
    profile: str
    outcome: str = "internal"
    started_at: float = field(default_factory=time.time)
    seconds: float = 0.0
    waited_s: float = 0.0
    retries: int = 0
    rows: int | None = None
    answer_bytes: int = 0
    truncated: bool = False
    client: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DialRecord:
    """One physical connection that was tried. outcome: "ok" or an error code."""

    profile: str
    endpoint: str
    outcome: str
    seconds: float
    tls: str | None = None


Record = CallRecord | DialRecord


class Observer(Protocol):
    """Something that wants to know; called on the event loop, so it must not block."""

    def __call__(self, record: Record, /) -> None: ...


Notify = Callable[[Record], None]


def notify(observers: Sequence[Observer], record: Record) -> None:
    """Tell every observer; a failing one is logged and the others still hear."""
    for observer in observers:
        try:
            observer(record)
        except Exception:  # whatever an observer does, the call must not suffer
            logger.exception("observer %r failed", observer)


class OneLineFilter(logging.Filter):
    """Makes one line of what the driver and the event loop log with a traceback: their trouble in the background.

    It belongs on a handler; records of our own keep their traceback, and at DEBUG those of the libraries, too.
    """

    _LIBRARIES = ("asyncpg", "asyncio", "uvloop")

    def filter(self, record: logging.LogRecord) -> bool:
        """Shorten the record where it is a library's, and let it pass."""
        if record.name.partition(".")[0] not in self._LIBRARIES or logger.isEnabledFor(logging.DEBUG):
            return True
        first = record.getMessage().partition("\n")[0]
        error = record.exc_info[1] if record.exc_info else None
        record.msg = first if error is None else f"{first.rstrip(':')}: {type(error).__name__}: {error}"
        record.args, record.exc_info, record.exc_text = (), None, None
        return True


def log_record(record: Record) -> None:
    """Write one line about `record` to the log: failed dials at WARNING, failed calls at INFO, others at DEBUG."""
    if isinstance(record, CallRecord):
        # A line for each call that went well would cost a fifth of a small call.
        logger.log(
            logging.DEBUG if record.outcome == "ok" else logging.INFO,
            "call tool=%s profile=%s outcome=%s seconds=%.3f rows=%s bytes=%d",
            record.tool,
            record.profile,
            record.outcome,
            record.seconds,
            record.rows,
            record.answer_bytes,
        )
    elif record.outcome != "ok":
        logger.warning(
            "dial profile=%s endpoint=%s outcome=%s seconds=%.3f",
            record.profile,
            record.endpoint,
            record.outcome,
            record.seconds,
        )
