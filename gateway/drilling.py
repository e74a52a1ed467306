"""`pg-gateway drill` between the command line and the drill: what is chosen, what is watched, what is printed."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Final

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway.config import Config
from gateway.demo_servers import demo_servers
from gateway.display import explain
from gateway.drill import Plan, new_report, run_drill
from gateway.drill_page import html_page
from gateway.drill_report import Report
from gateway.drill_scenarios import SCENARIOS, Scenario
from gateway.drill_table import show_table
from gateway.drill_view import LiveView, PlainView
from gateway.embedded import EmbeddedServer
from gateway.errors import ConfigError, GatewayError, InvalidArguments
from gateway.serving import FAILED, MISUSED, settle
from gateway.toxiproxy import find as find_program

_DEMO_CALL_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the command line asks for, besides where to drill."""

    scenarios: Sequence[Scenario]
    callers: int
    seconds: float
    call_s: float | None
    as_json: bool
    html: Path | None
    command: str


def choose_scenarios(names: Sequence[str], *, own_server: bool) -> list[Scenario]:
    """Return the scenarios of these names in their order, or all that can be; raises InvalidArguments for others."""
    known = {scenario.name: scenario for scenario in SCENARIOS}
    if not names:
        return [scenario for scenario in SCENARIOS if own_server or not scenario.own_server]
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=3)
            meant = f"Did you mean {' or '.join(near)}? " if near else ""
            raise InvalidArguments(f"no scenario named {name!r}", hint=f"{meant}Known are: {', '.join(known)}.")
        if known[name].own_server and not own_server:
            raise InvalidArguments(
                f"the scenario {name} stops a server, so it exists with --demo only",
                hint="The drill of a profile never touches the database.",
            )
    return [known[name] for name in dict.fromkeys(names)]


def list_scenarios(*, as_json: bool) -> None:
    """Print the scenarios and what each does."""
    if as_json:
        rows = [{"name": it.name, "summary": it.summary, "demo_only": it.own_server} for it in SCENARIOS]
        sys.stdout.write(orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode() + "\n")
        return
    table = Table.grid(padding=(0, 2))
    for it in SCENARIOS:
        table.add_row(Text(it.name, style="bold"), Text(it.summary + (" (--demo only)" if it.own_server else "")))
    Console(highlight=False).print(table)


def check_writable(file: Path | None) -> None:
    """Raise InvalidArguments where a file could not be written when all is done."""
    if file is None:
        return
    place = file if file.exists() else file.parent
    if file.is_dir() or not place.exists() or not os.access(place, os.W_OK):
        raise InvalidArguments(f"--html {file}: the file cannot be written", hint="Name one in a folder that exists.")


async def drill_profile(config: Config, profile: str, wishes: Wishes, *, environ: Mapping[str, str]) -> int:
    """Drill a profile of the configuration; returns the exit code."""
    return await _drill(_plan(config, profile, wishes, call_s=wishes.call_s, server=None), wishes, environ)


async def drill_demo(wishes: Wishes) -> int:
    """Drill a throw-away server, with another one as its neighbour; returns the exit code."""
    call_s = _DEMO_CALL_S if wishes.call_s is None else wishes.call_s
    with tempfile.TemporaryDirectory(prefix="pg-gateway-drill-") as folder:
        try:
            find_program()  # before the servers are started: they take some seconds
            _watched(wishes).print("Starting two throw-away PostgreSQL servers with a web shop in each …")
            async with demo_servers(Path(folder), ("local", "azure_dev")) as demo:
                plan = _plan(demo.config, "local", wishes, call_s=call_s, server=demo.servers["local"])
                return await _drill(plan, wishes, {})
        except ConfigError as error:
            explain(error)
            return MISUSED


def _plan(config: Config, profile: str, wishes: Wishes, *, call_s: float | None, server: EmbeddedServer | None) -> Plan:
    return Plan(
        config=config,
        profile=profile,
        scenarios=wishes.scenarios,
        callers=wishes.callers,
        seconds=wishes.seconds,
        call_s=call_s,
        command=wishes.command,
        server=server,
    )


def _watched(wishes: Wishes) -> Console:
    # With --json, stdout belongs to the program that reads it.
    return Console(stderr=wishes.as_json, highlight=False, soft_wrap=True)


async def _drill(plan: Plan, wishes: Wishes, environ: Mapping[str, str]) -> int:
    watched = _watched(wishes)
    view = LiveView(watched) if watched.is_terminal else PlainView(watched)
    # As `serve` does, or pauses of the collector would be put down to the neighbours.
    settle()
    try:
        report = new_report(plan)
        try:
            async with view.shown():
                await run_drill(plan, report, view, environ=environ)
        except asyncio.CancelledError:
            _tell(report, wishes)
            raise
    except GatewayError as error:
        explain(error)
        return MISUSED if isinstance(error, ConfigError) else FAILED
    _tell(report, wishes)
    return 0 if report.is_passed else FAILED


def _tell(report: Report, wishes: Wishes) -> None:
    if wishes.html is not None:
        wishes.html.write_text(html_page(report), encoding="utf-8")
    if wishes.as_json:
        sys.stdout.write(orjson.dumps(report.to_dict(), option=orjson.OPT_INDENT_2).decode() + "\n")
        return
    console = Console(highlight=False)
    show_table(console, report)
    if wishes.html is not None:
        console.print(Text(f"Wrote {wishes.html}"), soft_wrap=True)
