"""The bench's results for a person: one table of calls per second, one of everything else, goals beside both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench.lines import Line
from tests.bench.throughput import BARE, CALLERS, FLOOR, OURS, RAW, WORKLOADS, Cell, Transport, Workload

# Past this, other work took so much of the machine that a row's ratios say little.
_UNSTEADY = 1.5
_VERDICTS = {True: "[green]met[/]", False: "[red]not met[/]", None: ""}


def _find(cells: Sequence[Cell], workload: Workload, count: int, name: str, transport: Transport) -> Cell | None:
    for cell in cells:
        who = cell.contestant
        if (cell.workload is workload and cell.callers == count) and (who.name, who.transport) == (name, transport):
            return cell
    return None


def _rate(cell: Cell | None) -> str:
    return "" if cell is None else f"{cell.sample.per_s:,.0f}"


def ratios(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return ours beside the others, a row for each workload, number of callers and wire."""
    rows = []
    for workload in WORKLOADS:
        for count in CALLERS:
            raw = _find(cells, workload, count, RAW, "none")
            for transport in ("stdio", "HTTP"):
                ours = _find(cells, workload, count, OURS, transport)
                floor = _find(cells, workload, count, FLOOR, transport)
                bare = _find(cells, workload, count, BARE, transport)
                assert ours is not None
                assert floor is not None
                assert raw is not None
                least = workload.least.get(transport) if count == max(CALLERS) else None
                to_raw = ours.sample.per_s / raw.sample.per_s
                rows.append(
                    {
                        "workload": workload.name,
                        "callers": count,
                        "transport": transport,
                        "ours": ours.sample.to_dict(),
                        "bare": bare.sample.to_dict() if bare else None,
                        "floor": floor.sample.to_dict(),
                        "raw": raw.sample.to_dict(),
                        "ours_to_floor": round(ours.sample.per_s / floor.sample.per_s, 3),
                        "ours_to_raw": round(to_raw, 3),
                        "spread": round(max(ours.sample.spread, floor.sample.spread, raw.sample.spread), 2),
                        "least_to_raw": least,
                        "met": None if least is None else to_raw >= least,
                    }
                )
    return rows


def _calls_table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(title="Calls per second, closed loop of c callers", title_justify="left")
    for name in ("asked", "c", "over"):
        table.add_column(name, no_wrap=True)
    numbers = (
        "ours",
        "p50 ms",
        "p99 ms",
        "bare SDK",
        "floor SDK",
        "raw asyncpg",
        "ours/floor",
        "ours/raw",
        "goal",
        "",
        "spread",
    )
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        ours, bare = row["ours"], row["bare"]
        table.add_row(
            row["workload"],
            str(row["callers"]),
            row["transport"],
            f"{ours['per_s']:,.0f}",
            f"{ours['p50_ms']:.2f}",
            f"{ours['p99_ms']:.2f}",
            f"{bare['per_s']:,.0f}" if bare else "",
            f"{row['floor']['per_s']:,.0f}",
            f"{row['raw']['per_s']:,.0f}",
            f"{row['ours_to_floor']:.2f}",
            f"{row['ours_to_raw']:.3f}",
            f"≥ {row['least_to_raw']:.2f}" if row["least_to_raw"] else "",
            _VERDICTS[row["met"]],
            f"[red]{row['spread']:.1f}[/]" if row["spread"] > _UNSTEADY else f"{row['spread']:.1f}",
        )
    return table


def _lines_table(lines: Sequence[Line]) -> Table:
    table = Table(title="Everything else", title_justify="left")
    for name in ("", "measure"):
        table.add_column(name, no_wrap=True)
    for name in ("ours", "compared with", "ratio or count", "goal", ""):
        table.add_column(name, justify="right", no_wrap=True)
    group = ""
    for line in lines:
        if group and line.group != group:
            table.add_section()
        goal = "" if line.most is None else f"≤ {line.most:g}"
        shown = f"{line.compared:,.0f}" if line.unit in ("turns", "tokens") else f"{line.compared:.2f}"
        table.add_row(
            line.group if line.group != group else "",
            line.measure,
            line.ours,
            line.other,
            f"{shown} {line.unit}",
            goal,
            _VERDICTS[line.is_met],
        )
        group = line.group
    return table


def show(console: Console, rows: Sequence[dict[str, Any]], lines: Sequence[Line]) -> None:
    """Print both tables."""
    console.print(_calls_table(rows))
    console.print(
        "Goals here are parts of raw asyncpg in the same run; docs/speed.md says which peer each stands for.",
        style="dim",
    )
    unsteady = sum(row["spread"] > _UNSTEADY for row in rows)
    if unsteady:
        console.print(
            f"{unsteady} of {len(rows)} rows are unsteady: their rounds differ by more than {_UNSTEADY:g} x, so "
            "something else was using the machine. Their ratios and verdicts say little; run it again when quiet.",
            style="yellow",
        )
    console.print(_lines_table(lines))
