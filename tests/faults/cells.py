"""One cell of the matrix: a gateway of its own behind a proxy of its own, one call under a fault, and what came of it.

The moments are states that are seen, not times that are guessed: a statement that waits for a lock in the database, a
reply that the database has sent and the caller has not got.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from gateway.app import Gateway
from gateway.errors import GatewayError
from gateway.observe import CallRecord, Record
from gateway.toxiproxy import Proxy, Toxiproxy
from tests.faults.faults import TOOL_NAMES, Fault, Moment
from tests.faults.gate import Gate
from tests.faults.ground import CALL_S, NEIGHBOUR, POOL_MAX, Ground
from tests.support.gateway import call, config_of
from tests.support.polling import until

HURT = "hurt"
# What has to be over at last, when the fault is.
SETTLED_S = 10.0
_NEIGHBOUR_EVERY_S = 0.05
# The first call of a profile learns what its database has, which is work: six gateways of one process at once would
# be measured by each other's.
_APART_S = 0.25

# What each tool is asked, and the relation without which its statement cannot even be planned.
QUESTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "list_tables": ({}, "pg_inherits"),
    "describe_table": ({"table_name": "wide"}, "pg_inherits"),
    "read_table": ({"table_name": "wide", "limit": 20}, "wide"),
    "execute_query": ({"query": "SELECT id, note FROM wide ORDER BY id"}, "wide"),
    "get_table_stats": ({"table_name": "wide"}, "pg_inherits"),
    "search_tables": ({"search_term": "wide"}, "pg_description"),
}
# Counters of use that every call moves.
_UNSTEADY = ("scans", "indexes", "retries", "counts_age_s")

_OURS = "datname = current_database() AND starts_with(application_name, 'pg-mcp-gateway ')"
_WAITS_FOR_A_LOCK = f"SELECT count(*) FROM pg_stat_activity WHERE {_OURS} AND wait_event_type = 'Lock'"
_BACKENDS = f"SELECT count(*) FROM pg_stat_activity WHERE {_OURS}"


@dataclass(slots=True, kw_only=True)
class Seen:
    """What came of a cell. expected: the answer without a fault; both without what changes from call to call.

    Sessions, once they had time to go: kept, when a call has failed and the fault lasts; backends, after recovery;
    left_behind, when the gateway has ended.
    """

    code: str = "none"
    error: GatewayError | None = None
    answer: dict[str, Any] | None = None
    expected: dict[str, Any] | None = None
    took_s: float = 0.0
    retries: int = 0
    recovered_s: float | None = None
    kept: int = 0
    backends: int = 0
    left_behind: int = 0
    moved: bool = False
    neighbours: list[CallRecord] = field(default_factory=list)


def steady(answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer without what changes from call to call."""
    return {key: value for key, value in answer.items() if key not in _UNSTEADY}


@dataclass(frozen=True, slots=True)
class Looker:
    """Connections past proxy and gateway into one tool's database on both servers."""

    first: asyncpg.Connection[Any]
    second: asyncpg.Connection[Any]

    @classmethod
    @asynccontextmanager
    async def into(cls, ground: Ground, tool: str) -> AsyncIterator[Looker]:
        async with (
            ground.database(tool).connection() as first,
            ground.database(tool, on_second=True).connection() as second,
        ):
            yield cls(first, second)

    async def waiting(self) -> int:
        """Return how many of the gateway's statements wait for a lock on the first server."""
        return int(await self.first.fetchval(_WAITS_FOR_A_LOCK))

    async def backends(self) -> int:
        """Return how many sessions the gateway has, on both servers."""
        return int(await self.first.fetchval(_BACKENDS)) + int(await self.second.fetchval(_BACKENDS))

    async def settled_at_most(self, most: int) -> int:
        """Return how many sessions there are once there are no more than `most`, or after SETTLED_S."""
        count = 0

        async def are_few() -> bool:
            nonlocal count
            count = await self.backends()
            return count <= most

        await until(are_few, within_s=SETTLED_S)
        return count


async def run_cell(fault: Fault, moment: Moment, tool: str, *, toxiproxy: Toxiproxy, ground: Ground) -> Seen:
    """Bring a call into the moment, let the fault strike, take it away again, and return what was seen."""
    first, second, neighbour = (ground.address(tool), ground.address(tool, on_second=True), ground.address(NEIGHBOUR))
    records: list[Record] = []
    seen = Seen()
    async with AsyncExitStack() as stack:
        gate = await stack.enter_async_context(Gate.before(first))
        proxy = await toxiproxy.proxy(f"{fault.name}.{moment}.{tool}", gate.address)
        stack.push_async_callback(proxy.destroy)
        looker = await stack.enter_async_context(Looker.into(ground, tool))
        if fault.prepare is not None:
            await fault.prepare(proxy)
        seen.expected = await _undisturbed(ground, tool)
        config = config_of(ground.profile(HURT, tool, proxy.address), ground.profile(NEIGHBOUR, NEIGHBOUR, neighbour))
        async with Gateway(config, environ={}, observers=[records.append]) as gateway:
            cell = _Cell(fault, moment, tool, proxy, second, gateway, ground, looker, gate, seen)
            await cell.run(lambda: [record for record in records if isinstance(record, CallRecord)])
        seen.left_behind = await looker.settled_at_most(0)
    return seen


async def _undisturbed(ground: Ground, tool: str) -> dict[str, Any]:
    profile = ground.profile(HURT, tool, ground.address(tool))
    async with Gateway(config_of(profile), environ={}) as gateway:
        return steady(await call(gateway, tool, **QUESTIONS[tool][0]))


@dataclass(slots=True)
class _Cell:
    fault: Fault
    moment: Moment
    tool: str
    proxy: Proxy
    second: tuple[str, int]
    gateway: Gateway
    ground: Ground
    looker: Looker
    gate: Gate
    seen: Seen

    async def run(self, records: Callable[[], list[CallRecord]]) -> None:
        await call(self.gateway, "list_tables", profile=NEIGHBOUR)
        if self.moment != "before_the_dial":
            await self._call()
            assert await until(lambda: self.gateway.pool_stats()[HURT].busy == 0)
        before = len(records())
        over = asyncio.Event()
        beside = asyncio.create_task(self._neighbour(over))
        try:
            await getattr(self, f"_{self.moment}")()
        finally:
            over.set()
            await beside
        during = records()[before:]
        self.seen.neighbours = [record for record in during if record.profile == NEIGHBOUR]
        self.seen.retries = max(record.retries for record in during if record.profile == HURT)
        await self._recover()

    async def _call(self) -> dict[str, Any]:
        return await call(self.gateway, self.tool, profile=HURT, **QUESTIONS[self.tool][0])

    async def _strike(self) -> None:
        await self.fault.strike(self.proxy, self.second)

    async def _note_call(self) -> None:
        """Make the call that the cell is about."""
        started = time.monotonic()
        try:
            self.seen.answer = steady(await self._call())
            self.seen.code = "ok"
        except GatewayError as error:
            self.seen.error, self.seen.code = error, error.code
        self.seen.took_s = time.monotonic() - started

    async def _before_the_dial(self) -> None:
        await self._strike()
        await asyncio.sleep(_APART_S * TOOL_NAMES.index(self.tool))  # a pace, not a wait
        await self._note_call()

    async def _idle(self) -> None:
        await self._strike()
        await self._note_call()

    async def _in_mid_query(self) -> None:
        async with self.ground.database(self.tool).connection() as other:
            lock = other.transaction()
            await lock.start()
            await other.execute(f"LOCK TABLE {QUESTIONS[self.tool][1]} IN ACCESS EXCLUSIVE MODE")
            asking = asyncio.create_task(self._note_call())
            assert await until(self._is_waiting, within_s=CALL_S / 2)
            await self._strike()
            await lock.rollback()
            await asking

    async def _in_mid_reply(self) -> None:
        self.gate.arm()
        asking = asyncio.create_task(self._note_call())
        assert await until(self.gate.held.is_set, within_s=CALL_S / 2)
        await self._strike()
        self.gate.release()
        await asking

    async def _is_waiting(self) -> bool:
        return await self.looker.waiting() > 0

    async def _neighbour(self, over: asyncio.Event) -> None:
        """Ask the neighbour all the while; what came of it stands in the records."""
        while not over.is_set():
            try:
                await call(self.gateway, "execute_query", query="SELECT 1", profile=NEIGHBOUR)
            except GatewayError:
                continue
            await asyncio.sleep(_NEIGHBOUR_EVERY_S)  # a pace, not a wait: the machine is needed for the other cells

    async def _recover(self) -> None:
        """Take the fault away and see how long the next success takes, and what is left of the sessions."""
        self.seen.moved = bool(await self.looker.second.fetchval(_BACKENDS))
        if self.seen.code != "ok":
            # Now: some toxics close what they have touched when they are taken away.
            self.seen.kept = await self.looker.settled_at_most(0)
        await self.proxy.clear()
        await self.proxy.point_at(self.second if self.fault.moves else self.gate.address)
        back = time.monotonic()
        assert await until(self._answers, within_s=SETTLED_S)
        self.seen.recovered_s = time.monotonic() - back

        self.seen.backends = await self.looker.settled_at_most(POOL_MAX)

    async def _answers(self) -> bool:
        try:
            await self._call()
        except GatewayError:
            return False
        return True
