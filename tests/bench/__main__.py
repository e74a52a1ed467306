"""Measure the gateway beside a bare SDK server, the least server with a database, and raw asyncpg, in one run.

Everything happens on 127.0.0.1 with a PostgreSQL of its own. Nothing is asserted: goals stand beside the numbers.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
import uvloop
from rich.console import Console

from tests.bench.answers import measure_catalogue, measure_list, measure_texts
from tests.bench.databases import Databases, bench_databases
from tests.bench.lines import Line
from tests.bench.process import measure_memory, measure_start
from tests.bench.relay import relay_to
from tests.bench.report import ratios, show
from tests.bench.roundtrips import measure_round_trips
from tests.bench.throughput import BARE, CALLERS, FLOOR, OURS, Cell, Contestant, RawAsyncpg, measure_throughput
from tests.bench.wires import child_environ, http_server, stdio_server

_HERE: Final = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long to measure: starts, rounds of loops, seconds of a round, and the relay's delay one way."""

    starts: int
    rounds: int
    round_s: float
    catalogue_s: float
    one_way_s: float


_QUICK: Final = Effort(starts=3, rounds=3, round_s=0.12, catalogue_s=0.15, one_way_s=0.02)
_FULL: Final = Effort(starts=9, rounds=6, round_s=0.5, catalogue_s=0.5, one_way_s=0.05)


class Bench:
    """One run: how to start each server, and the measures in their order."""

    def __init__(self, databases: Databases, folder: Path, effort: Effort, console: Console) -> None:
        self._databases = databases
        self._folder = folder
        self._effort = effort
        self._console = console
        self._environ = child_environ(folder / "bytecode")
        self._floor = [sys.executable, "-m", "tests.bench.floor_server", databases.dsn("small")]
        self._floor_environ = {**self._environ, "PYTHONPATH": f"{_HERE.parents[1]}"}
        self._bare = [sys.executable, str(_HERE / "bare_server.py")]
        self._ours = self._gateway("profiles.toml", databases.profiles())

    def _gateway(self, name: str, profiles: str) -> list[str]:
        path = self._folder / name
        path.write_text(profiles)
        return [sys.executable, "-m", "gateway", "serve", "--config", str(path)]

    @contextlib.contextmanager
    def _said(self, what: str) -> Iterator[None]:
        started = time.monotonic()
        with self._console.status(what):
            yield
        self._console.print(f"{what}: {time.monotonic() - started:.0f} s", style="dim")

    async def processes(self) -> list[Line]:
        """Measure start and memory."""
        with self._said("start and memory"):
            where: dict[str, Any] = {"environ": self._environ, "folder": self._folder}
            started = await measure_start(self._ours, self._bare, runs=self._effort.starts, **where)
            held = await measure_memory(self._ours, self._bare, seconds=self._effort.round_s * 2, **where)
            return started + held

    async def calls(self) -> list[Cell]:
        """Measure calls per second of everybody."""
        with self._said("calls per second"):
            async with contextlib.AsyncExitStack() as stack:
                contestants = [await stack.enter_async_context(RawAsyncpg(self._databases))]
                for name, argv, environ in (
                    (OURS, self._ours, self._environ),
                    (BARE, self._bare, self._environ),
                    (FLOOR, self._floor, self._floor_environ),
                ):
                    over = ["--http", "127.0.0.1:{port}"] if name == OURS else ["{port}"]
                    pipe = await stack.enter_async_context(stdio_server(argv, environ=environ, folder=self._folder))
                    web = await stack.enter_async_context(
                        http_server([*argv, *over], environ=environ, folder=self._folder)
                    )
                    clients = [await web.connect() for _ in range(max(CALLERS))]
                    contestants += [
                        Contestant(name=name, transport="stdio", callers=[pipe.call] * max(CALLERS)),
                        Contestant(name=name, transport="HTTP", callers=[client.call for client in clients]),
                    ]
                return await measure_throughput(contestants, rounds=self._effort.rounds, seconds=self._effort.round_s)

    async def answers(self) -> list[Line]:
        """Measure the catalogue tools and the size of answers."""
        with self._said("catalogue and texts"):
            async with stdio_server(self._ours, environ=self._environ, folder=self._folder) as client:
                catalogue = await measure_catalogue(
                    client, rounds=self._effort.rounds, seconds=self._effort.catalogue_s / 2
                )
                return catalogue + await measure_texts(client) + await measure_list(client)

    async def round_trips(self) -> list[Line]:
        """Count round trips through a relay that delays."""
        with self._said("round trips"):
            async with relay_to(self._databases.port) as relay:
                argv = self._gateway("relayed.toml", self._databases.profiles(port=relay.port))
                async with stdio_server(argv, environ=self._environ, folder=self._folder) as client:
                    return await measure_round_trips(client, relay, one_way_s=self._effort.one_way_s)


def _logs(folder: Path) -> str:
    return "\n".join(f"{log.name}: {log.read_text(errors='replace')[-1500:]}" for log in folder.glob("*.log"))


async def _run(effort: Effort) -> dict[str, Any]:
    console = Console(width=None if sys.stdout.isatty() else 180, highlight=False)
    started = time.monotonic()
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pg-gateway-bench-")))
        with console.status("a PostgreSQL with 10,000 tables …"):
            databases = await stack.enter_async_context(bench_databases())
        bench = Bench(databases, folder, effort, console)
        try:
            processes = await bench.processes()
            answers = await bench.answers()
            trips = await bench.round_trips()
            rows = ratios(await bench.calls())
        except Exception:
            console.print(_logs(folder), markup=False)
            raise
    lines = [*processes, *answers, *trips]
    show(console, rows, lines)
    console.print(f"{time.monotonic() - started:.0f} s in all", style="dim")
    return {"calls": rows, "lines": [line.to_dict() for line in lines]}


def main() -> None:
    """Run the bench as the command line says."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under a minute, with rougher numbers")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write every number to FILE")
    given = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(_run(_QUICK if given.quick else _FULL))
    if given.json is not None:
        given.json.write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))


if __name__ == "__main__":
    main()
