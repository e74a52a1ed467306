"""What is known of each profile's database, and the verdicts on callers' texts that follow from it.

A snapshot of the functions is taken on a profile's first connection, again now and then, and when a text names a
function that it does not have. Verdicts are remembered by text; long texts are parsed on threads of their own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.connect import GatewayConnection
from gateway.deadline import Deadline
from gateway.errors import BadQuery, Forbidden, GatewayError, UnsafeSql
from gateway.pg_errors import from_statement
from gateway.pools import Pools
from gateway.posture import posture_of
from gateway.profiles import Profile
from gateway.query import ProfileTypes
from gateway.session import begin_read_only
from gateway.snapshot import Snapshot, take_snapshot
from gateway.sql_functions import FunctionCatalog
from gateway.sql_guard import Judged

logger = logging.getLogger(__name__)

# libpg_query needs about 20 µs for a statement of this size: less than the way to a thread and back.
_INLINE_CHARS: Final = 4096
_JUDGE_THREADS: Final = 2
_VERDICTS_KEPT: Final = 1000
_SNAPSHOT_S: Final = 300.0
_LOOK_AGAIN_S: Final = 1.0
# Rules of the guard that a look at the database may overrule.
_UNKNOWN: Final = ("unknown-function", "unknown-operator")


@dataclass(slots=True)
class ProfileState:
    """What is known of one profile's database, shared by its calls."""

    types: ProfileTypes = field(default_factory=ProfileTypes)
    snapshot: Snapshot | None = None
    snapshot_at: float = 0.0
    # With posture = "enforce": whether the role was found to do more than read, so that every call looks again.
    is_closed: bool = False
    verdicts: OrderedDict[str, Judged] = field(default_factory=OrderedDict)
    # Tables of a large schema by kind, and when they were counted.
    counts: dict[str, tuple[float, dict[str, int]]] = field(default_factory=dict)
    refresh: asyncio.Task[None] | None = None
    learning: asyncio.Lock = field(default_factory=asyncio.Lock)

    def remember(self, query: str, judged: Judged) -> None:
        """Keep the verdict on a text, forgetting the least used beyond the bound."""
        if len(query) <= _INLINE_CHARS:
            self.verdicts[query] = judged
            if len(self.verdicts) > _VERDICTS_KEPT:
                self.verdicts.popitem(last=False)


class Judging:
    """The judge of all profiles, and what it knows of each."""

    def __init__(self, pools: Pools, *, guard: Callable[..., Judged], snapshot_s: float = _SNAPSHOT_S) -> None:
        """Make a judge. snapshot_s: when what is known of a database is old enough to be looked at again."""
        self._pools = pools
        self._guard = guard
        self._snapshot_s = snapshot_s
        self._states: dict[str, ProfileState] = {}
        self._packaged: FunctionCatalog | None = None
        self._threads: ThreadPoolExecutor | None = None

    def state(self, profile: Profile) -> ProfileState:
        """Return what is known of the profile's database."""
        return self._states.setdefault(profile.name, ProfileState())

    def close(self) -> None:
        """Stop what runs behind the callers' backs."""
        for state in self._states.values():
            if state.refresh is not None:
                state.refresh.cancel()
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def ready(self, profile: Profile, state: ProfileState, connection: GatewayConnection) -> None:
        """See to it that the profile's database is known, before the first call and now and then."""
        if state.snapshot is None or state.is_closed:
            # One snapshot serves all callers that come first together.
            async with state.learning:
                if state.snapshot is None or state.is_closed:
                    await self._learn(profile, state, connection)
        elif time.monotonic() - state.snapshot_at > self._snapshot_s:
            self._refresh(profile, state)

    async def prejudge(self, query: str, profile: Profile) -> None:
        """Refuse what is certain to be refused without the database; names that only it knows can wait."""
        state = self.state(profile)
        if query in state.verdicts:
            return
        try:
            judged = await self._judge(query, profile, state)
            if state.snapshot is not None:
                state.remember(query, judged)
        except (UnsafeSql, BadQuery) as error:
            if error.details.get("rule") not in _UNKNOWN:
                raise

    async def judge(self, query: str, profile: Profile, connection: GatewayConnection) -> Judged:
        """Return the verdict on a caller's text, from the profile's own functions; remembered by text."""
        state = self.state(profile)
        if (known := state.verdicts.get(query)) is not None:
            state.verdicts.move_to_end(query)
            return known
        try:
            judged = await self._judge(query, profile, state)
        except (UnsafeSql, BadQuery) as error:
            if error.details.get("rule") not in _UNKNOWN or time.monotonic() - state.snapshot_at < _LOOK_AGAIN_S:
                raise
            # Made since the last look, perhaps.
            await self._learn(profile, state, connection)
            judged = await self._judge(query, profile, state)
        state.remember(query, judged)
        return judged

    async def explain(self, query: str, profile: Profile, *, offline: bool) -> dict[str, Any]:
        """Return what the guard decides about a text and why, by asking the guard itself; nothing is run.

        offline: by the packaged list of PostgreSQL's own functions, without a connection.
        """
        state = ProfileState() if offline else self.state(profile)
        if not offline and (state.snapshot is None or state.is_closed):
            await self._look(profile, state)
        answer: dict[str, Any] = {
            "profile": profile.name,
            "judged_by": "PostgreSQL's own functions" if offline else "the functions of this database",
        }
        try:
            judged = await self._judge(query, profile, state)
        except GatewayError as error:
            return {**answer, "verdict": "refused", **error.to_dict()}
        return {
            **answer,
            "verdict": "allowed",
            "kind": judged.kind,
            "statement": judged.sql,
            "runs_the_query": judged.kind != "explain" or judged.analyze,
            "relations": [".".join(part for part in relation if part) for relation in judged.relations],
            "parameters": judged.param_count,
        }

    async def _learn(self, profile: Profile, state: ProfileState, connection: GatewayConnection) -> None:
        """Take the profile's snapshot; with posture = "enforce", refuse a role that may do more than read."""
        if profile.is_pooled:
            await begin_read_only(connection, profile, statement_s=profile.limits.statement_s)
        if profile.posture == "enforce":
            posture = await posture_of(connection)
            state.is_closed = bool(posture.risks)
            if state.is_closed:
                raise Forbidden(
                    f"profile {profile.name} is closed: its role {posture.user} {'; '.join(posture.risks)}",
                    hint="`pg-gateway check --sql` prints the SQL for a role that can only read.",
                    profile=profile.name,
                )
        elif state.snapshot is None:
            posture = await posture_of(connection)
            if posture.risks:
                logger.warning("profile=%s: the role %s %s", profile.name, posture.user, "; ".join(posture.risks))
        state.snapshot = await take_snapshot(connection)
        state.snapshot_at = time.monotonic()
        state.verdicts.clear()

    async def _look(self, profile: Profile, state: ProfileState) -> None:
        """Take the profile's snapshot over a connection of its own, within a call's time; raises a GatewayError."""
        deadline = Deadline.after(profile.limits.call_s)
        async with self._pools.of(profile).connection(deadline) as connection:
            try:
                async with deadline.scope():
                    await self._learn(profile, state, connection)
            except GatewayError:
                raise
            except Exception as error:
                # In here, so that the pool hears of a deadline that went by.
                raise from_statement(error, profile=profile.name) from error

    def _refresh(self, profile: Profile, state: ProfileState) -> None:
        """Take a new snapshot behind the callers' backs, one at a time."""
        if state.refresh is not None and not state.refresh.done():
            return

        async def run() -> None:
            try:
                await self._look(profile, state)
            except Forbidden as error:
                logger.warning("%s", error.message)
            except Exception as error:  # noqa: BLE001 - the old snapshot serves until the next try
                state.snapshot_at = time.monotonic()
                logger.warning("profile=%s: functions could not be read again: %s", profile.name, error)

        state.refresh = asyncio.get_running_loop().create_task(run())

    async def _judge(self, query: str, profile: Profile, state: ProfileState) -> Judged:
        if state.snapshot is not None:
            catalog, path = state.snapshot.functions, state.snapshot.search_path
        else:
            if self._packaged is None:
                self._packaged = FunctionCatalog.packaged()
            catalog, path = self._packaged, profile.search_path or ("public",)

        def run() -> Judged:
            return self._guard(
                query,
                catalog=catalog,
                allow_functions=profile.allow_functions,
                schemas=profile.schemas,
                search_path=path,
            )

        if len(query) <= _INLINE_CHARS:
            return run()
        if self._threads is None:
            self._threads = ThreadPoolExecutor(max_workers=_JUDGE_THREADS, thread_name_prefix="judge")
        return await asyncio.get_running_loop().run_in_executor(self._threads, run)
