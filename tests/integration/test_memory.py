"""What the largest answers cost the gateway's own process, by the kernel's count of its peak.

The gateway runs as users run it, on stdio. PostgreSQL's own memory is not counted, and eight of these at once are as
many as a machine should be asked for.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.clients import Wire, wire
from tests.support.gateway import write_profiles
from tests.support.postgres import Pair, Servers

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.slow,  # some hundred megabytes and ten thousand tables are made first
    pytest.mark.timeout(300),
]

CELL_BYTES = 300_000_000
ROWS = 1_000_000
COLUMNS = 1_600  # PostgreSQL's most
TABLES = 10_000
MOST_BYTES = 50 * 2**20
PAGE_BYTES = 64 * 1024
PATIENCE = 4
MADE = (
    "CREATE TABLE public.monster (id int PRIMARY KEY, content text, octets bytea)",
    "ALTER TABLE public.monster ALTER content SET STORAGE EXTERNAL, ALTER octets SET STORAGE EXTERNAL",
    f"INSERT INTO public.monster SELECT 1, repeat('x', {CELL_BYTES}), convert_to(repeat('y', {CELL_BYTES}), 'UTF8')",
    f"CREATE TABLE public.long AS SELECT i AS id, md5(i::text) AS word FROM generate_series(1, {ROWS}) AS i",
    f"CREATE TABLE public.wide ({', '.join(f'c{i} int DEFAULT {i}' for i in range(COLUMNS))})",
    "INSERT INTO public.wide SELECT FROM generate_series(1, 200)",
)
# The calls, and what of the answer shows that the monster has been met.
CALLS: dict[str, tuple[str, dict[str, Any], str]] = {
    "a stored cell": ("execute_query", {"query": "SELECT content FROM monster"}, f'"$bytes": {CELL_BYTES}'),
    "a stored cell of bytes": ("execute_query", {"query": "SELECT octets FROM monster"}, f'"$bytes": {CELL_BYTES}'),
    "a row of a table": ("read_table", {"table_name": "monster"}, f'"$bytes": {CELL_BYTES}'),
    "a computed cell": ("execute_query", {"query": f"SELECT repeat('x', {CELL_BYTES})"}, f'"$bytes": {CELL_BYTES}'),
    "a million rows": ("execute_query", {"query": "SELECT * FROM long", "limit": 1000}, '"truncated": true'),
    "a million rows of a table": ("read_table", {"table_name": "long", "limit": 1000}, '"truncated": true'),
    "1600 columns": ("execute_query", {"query": "SELECT * FROM wide", "limit": 1000}, f'"c{COLUMNS - 1}"'),
    "1600 described": ("describe_table", {"table_name": "wide"}, "c10"),
    "10000 tables": ("list_tables", {"limit": 1000}, '"next_offset"'),
    "10000 tables searched": ("search_tables", {"search_term": "table_04321"}, "table_04321"),
}


@pytest.fixture(scope="module")
async def monsters(servers: Servers) -> AsyncIterator[Pair]:
    async with servers.copy() as pair:
        async with pair.first.connection() as connection:
            for statement in MADE:
                await connection.execute(statement)
            for start in range(0, TABLES, 1000):
                # One transaction must not hold more locks than the server has room for.
                await connection.execute(
                    f"""DO $$ BEGIN FOR i IN {start}..{start + 999} LOOP
                      EXECUTE format('CREATE TABLE public.%I (id int)', 'table_' || lpad(i::text, 5, '0'));
                    END LOOP; END $$"""
                )
            await connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {pair.first.reader}")
            await connection.execute("ANALYZE")
        yield pair


@pytest.fixture
async def running(monsters: Pair, tmp_path: Path) -> AsyncIterator[Wire]:
    """Run a gateway that has answered once of each kind, so that what it loads on first use is not counted."""
    config = write_profiles(tmp_path, monsters)
    limits = "limits = { statement_s = 50, call_s = 60, acquire_s = 30 }"
    config.write_text(config.read_text().replace("max = 5 }", f"max = 8 }}\n{limits}"))
    async with wire(config, "2026-07-28") as opened:
        await opened.call("execute_query", query="SELECT 1")
        await opened.call("read_table", table_name="customers")
        await opened.call("list_tables", limit=1)
        yield opened


def memory(pid: int, field: str) -> int:
    """Return `VmRSS` (now) or `VmHWM` (the most since `forget_peak`) of a process, in bytes."""
    found = re.search(rf"^{field}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) * 1024


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


async def _messages(running: Wire, count: int) -> AsyncIterator[dict[str, Any]]:
    """Yield messages until `count` of them are replies, with more patience than one read has."""
    replies = patience = 0
    while replies < count:
        try:
            message = await running.read()
        except TimeoutError:
            patience += 1
            if patience == PATIENCE:
                raise
            continue
        replies += "id" in message
        yield message


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux counts a peak that can be reset")
@pytest.mark.parametrize("at_once", [1, 8])
@pytest.mark.parametrize("case", CALLS)
async def test_a_monster_costs_little_memory(case: str, at_once: int, running: Wire) -> None:
    tool, arguments, sign = CALLS[case]
    pid = running.process.pid
    idle = memory(pid, "VmRSS")
    forget_peak(pid)

    started = {running.start_call(tool, **arguments) for _ in range(at_once)}
    replies = [message async for message in _messages(running, at_once) if message.get("id") in started]

    peak = memory(pid, "VmHWM") - idle
    print(f"\n{case}, {at_once} at once: {peak / 2**20:.1f} MB above {idle / 2**20:.1f} MB")
    for reply in replies:
        text = reply["result"]["content"][0]["text"]
        assert len(text.encode()) <= PAGE_BYTES
        assert sign.replace(": ", ":") in text.replace(": ", ":")
    assert peak < MOST_BYTES
