"""The words and the table in which a drill's verdicts are told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway.drill_report import NeighbourNumbers, Report, Verdict

NONE: Final = "-"
_HEADINGS: Final = (
    *("scenario", "calls", "answered", "failed", "lost", "longest"),
    *("notice", "recover", "retries", "neighbours", "verdict"),
)
# What a narrow terminal does without.
_WIDE_ONLY: Final = ("notice", "retries")
_WIDE: Final = 100
# Nothing folds a log; a terminal is as wide as it is.
_LOG_WIDTH: Final = 120


def verdict_line(verdict: Verdict) -> Text:
    """Return a scenario's verdict in one line, and a line for each reason."""
    mark = Text("✓ ", style="green") if verdict.is_passed else Text("✗ ", style="red")
    line = mark + Text(f"{verdict.scenario:<11}", style="bold")
    line += Text(
        f"{verdict.answered} of {verdict.calls} answered, {verdict.lost} lost, longest {verdict.longest_s:.1f} s"
    )
    for reason in verdict.reasons:
        line += Text(f"\n    {reason}", style="red")
    return line


def seconds_text(seconds: float | None) -> str:
    """Return seconds as people read them, in ms below one second."""
    if seconds is None:
        return NONE
    return f"{seconds * 1000:.0f} ms" if seconds < 0.9995 else f"{seconds:.1f} s"  # noqa: PLR2004 - what rounds to 1000 ms


def neighbour_text(numbers: Sequence[NeighbourNumbers]) -> str:
    """Return the p95 before and during of the neighbour whose p95 grew most."""
    known = [it for it in numbers if it.before_s is not None and it.during_s is not None]
    if not known:
        return NONE
    worst = max(known, key=lambda it: (it.during_s or 0) / (it.before_s or 1))
    return f"{(worst.before_s or 0) * 1000:.1f} → {(worst.during_s or 0) * 1000:.1f} ms"


def failed_text(verdict: Verdict) -> str:
    """Return how many calls failed by which code, those that the breaker turned away apart."""
    counts = dict(verdict.failed)
    if verdict.turned_away:
        counts["unavailable"] = counts.get("unavailable", 0) - verdict.turned_away
    parts = [f"{count} {code}" for code, count in counts.items() if count]
    if verdict.turned_away:
        parts.append(f"{verdict.turned_away} turned away")
    return ", ".join(parts) or "0"


def _cells(verdict: Verdict) -> dict[str, Text]:
    """Return what the table says of a scenario, by column."""
    return {
        "scenario": Text(verdict.scenario),
        "calls": Text(str(verdict.calls)),
        "answered": Text(str(verdict.answered)),
        "failed": Text(failed_text(verdict)),
        "lost": Text(str(verdict.lost), style="bold red" if verdict.lost else ""),
        "longest": Text(seconds_text(verdict.longest_s)),
        "notice": Text(seconds_text(verdict.notice_s)),
        "recover": Text(seconds_text(verdict.recover_s)),
        "retries": Text(str(verdict.retries)),
        "neighbours": Text(neighbour_text(verdict.neighbours)),
        "verdict": Text("pass", style="green") if verdict.is_passed else Text("FAIL", style="bold red"),
    }


def show_table(console: Console, report: Report) -> None:
    """Print the table of a drill, and under it why a scenario failed."""
    if not console.is_terminal:
        console.width = max(console.width, _LOG_WIDTH)
    table = Table(
        title=f"Drill of {report.profile}",
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
    )
    headings = [name for name in _HEADINGS if console.width >= _WIDE or name not in _WIDE_ONLY]
    for name in headings:
        is_text = name in ("scenario", "failed", "verdict")
        table.add_column(name, justify="left" if is_text else "right", no_wrap=name != "failed", overflow="fold")
    for verdict in report.verdicts:
        cells = _cells(verdict)
        table.add_row(*(cells[name] for name in headings))
    console.print()
    console.print(table)
    for verdict in report.verdicts:
        for reason in verdict.reasons:
            console.print(Text(f"{verdict.scenario}: ", style="bold") + Text(reason, style="red"))
    if report.interrupted is not None:
        console.print(
            Text(f"Interrupted in {report.interrupted}; the table holds what was done by then.", style="yellow")
        )
