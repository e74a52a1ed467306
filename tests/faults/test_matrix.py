"""Every fault at every moment under every tool: what a call answers, when, and what is left behind."""

from __future__ import annotations

import asyncio

import pytest

from gateway.toxiproxy import Toxiproxy
from tests.faults.cells import HURT, Seen, run_cell
from tests.faults.faults import FAULTS, MOMENTS, QUICK, SENSELESS, TOOL_NAMES, Fault, Moment
from tests.faults.ground import CALL_S, POOL_MAX, Ground

# Promised in docs/resilience.md, not measured and then written here.
LATE_S = 2.0
RECOVERY_S = 3.0
NEIGHBOUR_S = 1.0
_BLAME = ("ask for less", "filter", "lower `limit`")

_OUT = {(cell.fault, cell.moment) for cell in SENSELESS}
CELLS = [(fault, moment) for fault in FAULTS for moment in MOMENTS if (fault.name, moment) not in _OUT]


def test_cells_and_exceptions_are_the_whole_matrix() -> None:
    faults = {"latency", "jitter", "bandwidth_slow", "bandwidth_0", "timeout_0", "timeout_300", "reset_peer", "reset"}
    faults |= {"limit_data", "slicer", "slow_close", "down", "upstream_dead", "upstream_changed", "half_of_connections"}

    cells = {(fault.name, moment, tool) for fault, moment in CELLS for tool in TOOL_NAMES}
    exceptions = {(cell.fault, cell.moment, tool) for cell in SENSELESS for tool in TOOL_NAMES}

    assert len(TOOL_NAMES) == 6
    assert not cells & exceptions
    assert cells | exceptions == {(f, m, t) for f in faults for m in MOMENTS for t in TOOL_NAMES}
    assert len(cells) + len(exceptions) == len(faults) * 4 * 6
    assert all(cell.reason for cell in SENSELESS)
    assert {(fault.name, moment) for fault, moment in CELLS} > QUICK


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("fault", "moment"),
    [
        pytest.param(
            fault,
            moment,
            id=f"{fault.name}-{moment}",
            marks=() if (fault.name, moment) in QUICK else pytest.mark.slow,
        )
        for fault, moment in CELLS
    ],
)
async def test_a_call_under_a_fault_keeps_every_promise(
    fault: Fault, moment: Moment, toxiproxy: Toxiproxy, ground: Ground
) -> None:
    async with asyncio.TaskGroup() as group:
        cells = {
            tool: group.create_task(run_cell(fault, moment, tool, toxiproxy=toxiproxy, ground=ground))
            for tool in TOOL_NAMES
        }
    seen = {tool: cell.result() for tool, cell in cells.items()}

    # The outcome: an answer that is right, or an error that names the profile and the true cause.
    assert {tool: _told(s) for tool, s in seen.items() if s.code not in fault.allowed(moment)} == {}
    assert {tool: s.answer for tool, s in seen.items() if s.code == "ok" and s.answer != s.expected} == {}
    assert {tool: _told(s) for tool, s in seen.items() if s.error is not None and s.error.profile != HURT} == {}
    assert {tool: _told(s) for tool, s in seen.items() if any(word in _told(s).lower() for word in _BLAME)} == {}
    assert {tool: s.took_s for tool, s in seen.items() if s.took_s < fault.at_least_s} == {}
    assert [tool for tool, s in seen.items() if s.moved != fault.moves] == []
    if fault.cuts and moment in ("in_mid_query", "in_mid_reply"):
        assert [tool for tool, s in seen.items() if not s.retries] == []
    # The deadline.
    assert {tool: s.took_s for tool, s in seen.items() if s.took_s > CALL_S + LATE_S} == {}
    # Recovery, once the fault is gone.
    assert {tool: s.recovered_s for tool, s in seen.items() if (s.recovered_s or 0.0) > RECOVERY_S} == {}
    # No leak.
    assert {tool: s.kept for tool, s in seen.items() if s.kept} == {}
    assert {tool: s.backends for tool, s in seen.items() if s.backends > POOL_MAX} == {}
    assert {tool: s.left_behind for tool, s in seen.items() if s.left_behind} == {}
    # The neighbour.
    neighbours = [record for s in seen.values() for record in s.neighbours]
    assert neighbours
    assert [record for record in neighbours if record.outcome != "ok" or record.retries] == []
    assert max(record.seconds for record in neighbours) < NEIGHBOUR_S


def _told(seen: Seen) -> str:
    if seen.error is None:
        return seen.code
    return f"{seen.code}: {seen.error.message} ({seen.error.hint})"
