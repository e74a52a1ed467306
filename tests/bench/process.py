"""What a process costs to start and to keep: seconds to the first tool list, resident memory. Memory is Linux's."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.bench.lines import Line
from tests.bench.loops import Sample, run_round
from tests.bench.throughput import CALLERS, WORKLOADS
from tests.bench.wires import StdioClient, stdio_server

_MILLION: Final = "SELECT n, md5(n::text) AS hash FROM generate_series(1, 1000000) AS n"


async def _first_list(argv: Sequence[str], *, environ: Mapping[str, str], folder: Path) -> float:
    started = time.perf_counter()
    async with stdio_server(argv, environ=environ, folder=folder) as client:
        await client.request("tools/list")
        return time.perf_counter() - started


async def measure_start(
    ours: Sequence[str], bare: Sequence[str], *, environ: Mapping[str, str], folder: Path, runs: int
) -> list[Line]:
    """Start both again and again, in turns; the first run of each writes the byte code and does not count."""
    seconds: dict[str, list[float]] = {"ours": [], "bare": []}
    for number in range(runs + 1):
        for name, argv in (("ours", ours), ("bare", bare)):
            taken = await _first_list(argv, environ=environ, folder=folder)
            if number > 0:
                seconds[name].append(taken)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return [
        Line(
            group="process",
            measure=f"start to tools/list over stdio, bare SDK, median of {runs}",
            ours=f"{medians['ours'] * 1000:.0f} ms",
            other=f"{medians['bare'] * 1000:.0f} ms",
            compared=medians["ours"] / medians["bare"],
            most=1.2,
        )
    ]


def memory_mb(pid: int, name: str = "VmRSS") -> float:
    """Return a process's resident memory, or with `VmHWM` its highest since `forget_peak`."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    return 0.0


def forget_peak(pid: int) -> None:
    """Make the highest memory so far the present one."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _memory_line(measure: str, ours: float, other: float, *, by: str, most: float) -> Line:
    is_ratio = by == "x"
    return Line(
        group="process",
        measure=measure,
        ours=f"{ours:.1f} MB",
        other=f"{other:.1f} MB",
        compared=ours / other if is_ratio else ours - other,
        unit="x" if is_ratio else "MB more",
        most=most,
    )


async def measure_memory(
    ours: Sequence[str], bare: Sequence[str], *, environ: Mapping[str, str], folder: Path, seconds: float
) -> list[Line]:
    """Look at both after their tool list, at ours under load, and after a million rows were asked for."""
    async with stdio_server(bare, environ=environ, folder=folder) as client:
        await client.request("tools/list")
        bare_mb = memory_mb(client.process.pid)
    async with stdio_server(ours, environ=environ, folder=folder) as client:
        await client.request("tools/list")
        pid = client.process.pid
        idle_mb = memory_mb(pid)
        await client.call("execute_query", {"query": "SELECT 1"})
        first_mb = memory_mb(pid)
        load_mb = await _under_load(client, seconds=seconds)
        forget_peak(pid)
        before_mb = memory_mb(pid)
        reply = await client.call("execute_query", {"query": _MILLION, "limit": 1000})
        million_mb = memory_mb(pid, "VmHWM")
    if b'"truncated":true' not in reply:
        raise AssertionError("a million rows were not cut")
    return [
        _memory_line("resident, idle: ours / bare SDK", idle_mb, bare_mb, by="x", most=1.3),
        _memory_line("resident after the first call / idle", first_mb, idle_mb, by="MB", most=10.0),
        _memory_line("resident, peak under load / idle", load_mb, idle_mb, by="MB", most=10.0),
        _memory_line("1 M rows asked, peak / before", million_mb, before_mb, by="MB", most=50.0),
    ]


async def _under_load(client: StdioClient, *, seconds: float) -> float:
    numbers = itertools.count(1)
    forget_peak(client.process.pid)
    for workload in WORKLOADS:
        await run_round(Sample(), [client.call] * max(CALLERS), workload.ask, numbers, seconds=seconds)
    return memory_mb(client.process.pid, "VmHWM")
