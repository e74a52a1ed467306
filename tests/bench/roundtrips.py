"""How often a call waits for the database: turns counted by a relay, and the call's time in round trips of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from tests.bench.lines import Line
from tests.bench.relay import Relay
from tests.bench.wires import StdioClient

# What follows an answer and nobody waits for: rollback and reset.
_AFTERWARDS: Final = b"ROLLBACK; SELECT pg_advisory_unlock_all()"
_COLUMNS: Final = "id, sku, name, price, weight, active, created_at, attributes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A call to count. again: the same call was made before, on the same connection."""

    measure: str
    tool: str
    arguments: Mapping[str, Any]
    most: float | None
    again: bool = True


_CASES: Final = (
    Case(
        measure="execute_query, new on its connection",
        tool="execute_query",
        arguments={"query": f"SELECT {_COLUMNS} FROM items WHERE id < 7"},
        most=4,
        again=False,
    ),
    Case(
        measure="execute_query, warm",
        tool="execute_query",
        arguments={"query": f"SELECT {_COLUMNS} FROM items WHERE id < 7"},
        most=2,
    ),
    Case(
        measure="execute_query SELECT *, new",
        tool="execute_query",
        arguments={"query": "SELECT * FROM items WHERE id < 9"},
        most=4,
        again=False,
    ),
    Case(
        measure="execute_query SELECT *, warm",
        tool="execute_query",
        arguments={"query": "SELECT * FROM items WHERE id < 9"},
        most=2,
    ),
    Case(measure="list_tables, warm", tool="list_tables", arguments={}, most=1),
    Case(measure="describe_table, warm", tool="describe_table", arguments={"table_name": "items"}, most=1),
    Case(measure="search_tables, warm", tool="search_tables", arguments={"search_term": "item"}, most=1),
    Case(measure="read_table, warm", tool="read_table", arguments={"table_name": "items", "limit": 5}, most=None),
    Case(measure="get_table_stats, warm", tool="get_table_stats", arguments={"table_name": "items"}, most=None),
)


async def _count(client: StdioClient, relay: Relay, tool: str, arguments: Mapping[str, Any]) -> tuple[int, float]:
    first = len(relay.turns)
    started = time.monotonic()
    await client.call(tool, arguments)
    ended = time.monotonic()
    waited = [turn for turn in relay.turns[first:] if turn.at < ended and _AFTERWARDS not in turn.head]
    return len(waited), (ended - started) / (2 * relay.one_way_s)


def _line(measure: str, turns: int, trips: float, most: float | None) -> Line:
    return Line(
        group="round trips",
        measure=measure,
        ours=f"{turns} turns",
        other=f"took {trips:.2f} trips",
        compared=turns,
        unit="turns",
        most=most,
    )


async def measure_round_trips(client: StdioClient, relay: Relay, *, one_way_s: float) -> list[Line]:
    """Count every case through the relay, with a pause for the reset between calls, and once without one."""
    relay.one_way_s = one_way_s
    turns, trips = await _count(client, relay, "execute_query", {"query": "SELECT 0 AS zero"})
    lines = [_line("first call of a profile: dial, functions, statement", turns, trips, None)]
    for case in _CASES:
        await relay.quiet()
        if case.again:
            await client.call(case.tool, case.arguments)
            await relay.quiet()
        lines.append(_line(case.measure, *await _count(client, relay, case.tool, case.arguments), case.most))
    # Straight after an answer the connection is still being reset.
    warm = next(case for case in _CASES if case.measure == "execute_query, warm")
    await client.call(warm.tool, warm.arguments)
    _, trips = await _count(client, relay, warm.tool, warm.arguments)
    lines.append(
        Line(
            group="round trips",
            measure="execute_query, warm, at once after another",
            ours=f"took {trips:.2f} trips",
            compared=trips,
            unit="trips",
            most=2.5,
        )
    )
    return lines
