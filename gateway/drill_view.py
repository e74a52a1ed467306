"""A drill while it runs: a live view in a terminal, plain lines elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import Final, Literal

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gateway.drill import Scene
from gateway.drill_records import Recording
from gateway.drill_report import Report, Verdict
from gateway.drill_scenarios import Scenario
from gateway.drill_table import verdict_line
from gateway.drill_verdict import percentile

_REFRESH_S: Final = 0.25
_WINDOW_S: Final = 1.0
_BAR_WIDTH: Final = 30
Phase = Literal["calm", "fault", "recovery"]
_PHASE_STYLES: Final = {"calm": "green", "fault": "red", "recovery": "yellow"}
UNTOUCHED: Final = "The database itself is not touched: what breaks is what lies between it and the gateway."
STOPPED: Final = "The throw-away server of the demo is stopped, too, in: "


def opening(report: Report, scenarios: Sequence[Scenario]) -> list[str]:
    """Return the lines that say what will be done, and what will not."""
    stopping = [scenario.name for scenario in scenarios if scenario.own_server]
    lines = [
        f"Drill of profile {report.profile}: {len(scenarios)} scenarios, {report.callers} callers",
        f"Database: {report.address}, call_s = {report.call_s:g}",
        STOPPED + ", ".join(stopping) if stopping else UNTOUCHED,
        f"Neighbours: {', '.join(report.neighbours) or 'none'}",
    ]
    return lines + [f"  {name} is left out: {reason}" for name, reason in report.left_out.items()]


class PlainView:
    """Writes a line for each phase and each verdict, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def begins(self, report: Report, scenarios: Sequence[Scenario]) -> None:
        for line in opening(report, scenarios):
            self._console.print(Text(line))

    def enters(self, scene: Scene, phase: str, seconds: float) -> None:
        self._console.print(Text(f"{scene.recording.scenario}: {phase}, {seconds:g} s"))

    def judged(self, verdict: Verdict) -> None:
        self._console.print(verdict_line(verdict))

    @contextlib.asynccontextmanager
    async def shown(self) -> AsyncIterator[None]:
        yield


class LiveView:
    """Redraws what happens four times a second, and leaves a line for each scenario that is over."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._scenes: tuple[Scene, Phase | str, float, float] | None = None
        self._total = 0
        self._done = 0

    def begins(self, report: Report, scenarios: Sequence[Scenario]) -> None:
        self._total = len(scenarios)
        for line in opening(report, scenarios):
            self._console.print(Text(line))
        self._console.print()

    def enters(self, scene: Scene, phase: str, seconds: float) -> None:
        self._scenes = (scene, phase, time.monotonic(), seconds)

    def judged(self, verdict: Verdict) -> None:
        self._done += 1
        self._scenes = None
        self._console.print(verdict_line(verdict))

    @contextlib.asynccontextmanager
    async def shown(self) -> AsyncIterator[None]:
        """Draw until the block ends."""
        with Live(console=self._console, auto_refresh=False, transient=True, redirect_stderr=False) as live:
            drawing = asyncio.create_task(self._draw(live))
            try:
                yield
            finally:
                drawing.cancel()
                await asyncio.wait((drawing,))
                live.update(Text(""))

    async def _draw(self, live: Live) -> None:
        while True:
            live.update(self._picture(), refresh=True)
            await asyncio.sleep(_REFRESH_S)

    def _picture(self) -> RenderableType:
        if self._scenes is None:
            return Text("connecting …", style="dim")
        scene, phase, since, seconds = self._scenes
        spent_s = min(time.monotonic() - since, seconds)
        head = Table.grid(padding=(0, 1))
        head.add_row(
            Text(f"{self._done + 1}/{self._total}", style="dim"),
            Text(scene.recording.scenario, style="bold"),
            Text(phase, style=_PHASE_STYLES.get(phase, "")),
            ProgressBar(total=max(seconds, 0.1), completed=spent_s, width=_BAR_WIDTH),
            Text(f"{spent_s:.0f} of {seconds:.0f} s", style="dim"),
        )
        return Group(head, Text(scene.recording.summary, style="dim"), Padding(_numbers(scene), (0, 0, 0, 2)))


def _numbers(scene: Scene) -> Table:
    recording, pool = scene.recording, scene.pool()
    now_s = recording.now()
    recent = [call for call in recording.calls[-2000:] if call.ended_s > now_s - _WINDOW_S]
    failed = [call for call in recording.calls if not call.is_answered]
    probe = recording.probes[-1] if recording.probes else None
    table = Table.grid(padding=(0, 2))
    table.add_row("calls", f"{len(recent)}/s, {len(recording.calls)} in all", _errors(recording, len(failed)))
    if pool is not None:
        table.add_row("pool", f"{pool.busy} busy, {pool.idle} idle of {pool.max}", f"{pool.waiting} waiting")
    turned_away = bool(recent) and recent[-1].turned_away
    table.add_row(
        "breaker",
        Text("open", style="red") if turned_away else Text("closed", style="green"),
        f"{sum(call.retries for call in recording.calls)} retries",
    )
    if probe is not None:
        word = Text("reachable", style="green") if probe.answered else Text("not reachable", style="red")
        table.add_row("database", word, Text("says the probe, past the gateway", style="dim"))
    near = [call.took_s for call in recording.neighbours[-200:] if call.ended_s > now_s - 2 * _WINDOW_S]
    if near:
        table.add_row("neighbours", f"p95 {(percentile(near, 0.95) or 0) * 1000:.1f} ms", "")
    return table


def _errors(recording: Recording, failed: int) -> Text:
    if not failed:
        return Text("no errors", style="green")
    last = next(call for call in reversed(recording.calls) if not call.is_answered)
    return Text(f"{failed} failed, the last by {last.outcome}", style="red")
