"""Calls per second of small and middling statements: ours beside the floors, in turns."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from tests.bench.databases import Databases
from tests.bench.floor_server import fetch_json, open_pool
from tests.bench.loops import Ask, Sample, run_round
from tests.bench.wires import Arguments, Call

Transport = Literal["stdio", "HTTP", "none"]
OURS: Final = "ours"
BARE: Final = "bare SDK"
FLOOR: Final = "floor SDK"
RAW: Final = "raw asyncpg"
CALLERS: Final = (1, 8)
_WARM_S: Final = 0.1


def _select_one(_number: int) -> tuple[str, dict[str, Any]]:
    return "execute_query", {"query": "SELECT 1 AS one"}


def _point(number: int) -> tuple[str, dict[str, Any]]:
    query = f"SELECT id, sku, name FROM items WHERE id = {number % 10_000 + 1} AND id < {1_000_000 + number}"
    return "execute_query", {"query": query}


def _hundred(_number: int) -> tuple[str, dict[str, Any]]:
    return "execute_query", {"query": "SELECT * FROM items ORDER BY id LIMIT 100"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What is asked again and again; against a constant only where that says something.

    least: by transport, calls per second at c=8 as a part of raw asyncpg's, see docs/speed.md.
    """

    name: str
    ask: Ask
    with_bare: bool
    least: dict[Transport, float]


# The goals name peers that are not run here. Peer and raw asyncpg were once measured side by side; so a goal of
# 0.45 x Toolbox (11,400 calls/s beside 26,196) becomes 0.20 x raw asyncpg.
WORKLOADS: Final = (
    Workload(name="SELECT 1", ask=_select_one, with_bare=True, least={"stdio": 0.20, "HTTP": 0.11}),
    Workload(name="point query, new text", ask=_point, with_bare=False, least={}),
    Workload(name="100 rows x 8 columns", ask=_hundred, with_bare=False, least={"stdio": 0.50, "HTTP": 0.28}),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """Who answers: a name, the wire, and as many callers as will ever ask at once."""

    name: str
    transport: Transport
    callers: Sequence[Call]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One number: who, over what, asked what, by how many."""

    workload: Workload
    callers: int
    contestant: Contestant
    sample: Sample


class RawAsyncpg:
    """The driver by itself, in this process: fetch and write JSON, no protocol."""

    def __init__(self, databases: Databases) -> None:
        self._opening = open_pool(databases.dsn("small"))

    async def __aenter__(self) -> Contestant:
        pool = await self._opening.__aenter__()

        async def call(_tool: str, arguments: Arguments) -> bytes:
            return await fetch_json(pool, arguments["query"])

        return Contestant(name=RAW, transport="none", callers=[call] * max(CALLERS))

    async def __aexit__(self, *error: object) -> None:
        await self._opening.__aexit__(*error)


async def measure_throughput(contestants: Sequence[Contestant], *, rounds: int, seconds: float) -> list[Cell]:
    """Run every workload over every contestant, a round each in turn, so that drift meets all alike."""
    numbers = itertools.count(1)
    cells: list[Cell] = []
    for workload in WORKLOADS:
        able = [c for c in contestants if c.name != BARE or workload.with_bare]
        for count in CALLERS:
            field = [Cell(workload=workload, callers=count, contestant=c, sample=Sample()) for c in able]
            for cell in field:
                await run_round(Sample(), cell.contestant.callers[:count], workload.ask, numbers, seconds=_WARM_S)
            for number in range(rounds):
                for cell in field if number % 2 == 0 else reversed(field):
                    await run_round(
                        cell.sample, cell.contestant.callers[:count], workload.ask, numbers, seconds=seconds
                    )
            cells += field
    return cells
