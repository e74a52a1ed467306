"""Attacks of `tests/corpus`, run through a real gateway on a database of their own, and what each of them did.

Statements run in batches between two looks at the server; where these differ, each statement is run again by itself
on a fresh copy, so that an effect has a name.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.app import Gateway
from gateway.errors import GatewayError
from gateway.profiles import Limits, PoolSettings, Profile
from gateway.results import to_json
from gateway.sql_guard import Judged, judge
from tests.corpus.attacks import Attack
from tests.support.corpus_server import SECRETS, CorpusServer
from tests.support.effects import HARMLESS_FACTS, Probe, Trap, differences, found_in, session_of
from tests.support.gateway import call, config_of, profile_of
from tests.support.polling import until

ROLES: Final = ("reader", "superuser")
GRACE_S: Final = 2.0
# Code that checks for no interrupts runs on; the longest of the corpus needs a few seconds.
RUNS_ON_S: Final = 60.0
ERROR_BYTES: Final = 4096
_LIMITS: Final = Limits(statement_s=1.0, call_s=2.0, acquire_s=2.0)
_SIZE_LIMITS: Final = Limits(statement_s=3.0, call_s=5.0, acquire_s=5.0)
# What a reply must never show, whoever asks, and what row security keeps from the reader.
_NEVER: Final = (*SECRETS.values(), "SCRAM-SHA-256$", "root:x:0:0")
_NOT_FOR_THE_READER: Final = ("theirs",)
_HOSTILE_PATH: Final = ("shadow", "pg_catalog", "public")


@dataclass(slots=True)
class Strike:
    """What one attack came to: the outcome a client was told, and its effects, which should be none."""

    attack: Attack
    outcome: str
    rows: int
    effects: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.attack.id} [{self.outcome}] {self.attack.sql[:150]!r}: {'; '.join(self.effects)}"


@dataclass(slots=True)
class _Scene:
    """A copy of the database with a gateway and a probe on it."""

    gateway: Gateway
    probe: Probe
    sessions: dict[str, dict[str, Any]]


class Strikes:
    """Runs attacks as one role; `guard` judges them."""

    def __init__(self, corpus: CorpusServer, trap: Trap, *, guard: Callable[..., Judged] = judge) -> None:
        self._corpus = corpus
        self._trap = trap
        self._guard = guard
        self._stack = AsyncExitStack()
        self._scene: _Scene | None = None
        self._failed_tasks: list[str] = []

    @classmethod
    @asynccontextmanager
    async def on(
        cls, corpus: CorpusServer, trap: Trap, *, guard: Callable[..., Judged] = judge
    ) -> AsyncIterator[Strikes]:
        """Make ready to strike; what a task of the gateway fails with, and nobody hears, counts as an effect, too."""
        strikes = cls(corpus, trap, guard=guard)
        loop = asyncio.get_running_loop()
        before = loop.get_exception_handler()
        loop.set_exception_handler(strikes._hear)
        try:
            yield strikes
        finally:
            loop.set_exception_handler(before)
            await strikes.renew()

    def _aimed(self, sql: str) -> str:
        """Return a statement of the corpus with its port and its file made this server's own."""
        return self._trap.aimed(sql).replace("/tmp/pwned", str(self._corpus.written_file))

    def _hear(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._failed_tasks.append(f"{context['message']}: {context.get('exception')}")

    @property
    def extensions(self) -> frozenset[str]:
        """What of contrib, and `xml`, the server has."""
        return self._corpus.extensions

    async def run(self, attacks: Sequence[Attack], *, role: str) -> list[Strike]:
        """Run the attacks and return what each did."""
        fitting = [attack for attack in attacks if self.extensions.issuperset(attack.needs)]
        scene = await self._ready()
        before = await scene.probe.state()
        struck = [await self._strike(scene, attack, role) for attack in fitting]
        if not await self._changes(scene, before):
            return struck
        await self.renew()
        return [await self.run_alone(attack, role=role) for attack in fitting]

    async def run_alone(self, attack: Attack, *, role: str) -> Strike:
        """Run one attack between two looks; where it had an effect, the next one gets a fresh copy."""
        scene = await self._ready()
        before = await scene.probe.state()
        strike = await self._strike(scene, attack, role)
        strike.effects += await self._changes(scene, before)
        if strike.effects:
            await self.renew()
        return strike

    async def explain(self, attack: Attack, *, role: str) -> dict[str, Any]:
        """Return the guard's verdict with the functions of this database."""
        gateway = (await self._ready()).gateway
        profile = gateway.resolve(_profile_name(role, attack))
        return await gateway.explain(self._aimed(attack.sql), profile, offline=False)

    async def effects_of(self, sql: str) -> list[str]:
        """Return what the probe sees of a statement that a superuser runs past the gateway."""
        scene = await self._ready()
        before = await scene.probe.state()
        async with scene.probe.database.connection() as connection:
            await connection.execute(self._aimed(sql).replace("{}", scene.probe.database.name))
            effects = await self._changes(scene, before)
        await self.renew()
        return effects

    async def renew(self) -> None:
        """Give up the copy, and remove what attacks have written outside of it."""
        self._scene = None
        await self._stack.aclose()

    async def _ready(self) -> _Scene:
        if self._scene is None:
            database = await self._stack.enter_async_context(self._corpus.database())
            profiles = []
            for role in ROLES:
                for suffix, limits, path in (
                    ("", _LIMITS, ()),
                    ("-size", _SIZE_LIMITS, ()),
                    ("-shadow", _LIMITS, _HOSTILE_PATH),
                ):
                    name, is_superuser = f"{role}{suffix}", role == "superuser"
                    changes = {"limits": limits, "pool": PoolSettings(min=0, max=1), "search_path": path}
                    profiles.append(profile_of(database, name, as_superuser=is_superuser, **changes))
            gateway = await self._stack.enter_async_context(
                Gateway(config_of(*profiles), environ={}, guard=self._guard)
            )
            probe = await self._stack.enter_async_context(Probe.attach(database, self._trap))
            sessions = {profile.name: await self._session(gateway, profile.name) for profile in profiles}
            await probe.is_quiet()
            await probe.drain()
            self._scene = _Scene(gateway, probe, sessions)
        return self._scene

    async def _strike(self, scene: _Scene, attack: Attack, role: str) -> Strike:
        profile = scene.gateway.resolve(_profile_name(role, attack))
        strike, seconds = await self._answer(scene.gateway, profile, attack)
        if seconds > profile.limits.call_s + GRACE_S:
            strike.effects.append(f"the answer took {seconds:.1f} s")
        if not await scene.probe.is_quiet():
            strike.effects.append("a backend is still at work")
            await scene.probe.is_quiet(within_s=RUNS_ON_S)
        try:
            session = await self._session(scene.gateway, profile.name)
        except GatewayError as error:
            strike.effects.append(f"the next caller is told {error.code}: {error.message}")
        else:
            strike.effects += [f"session {change}" for change in differences(scene.sessions[profile.name], session)]
        strike.effects += self._failed_tasks
        self._failed_tasks.clear()
        return strike

    async def _answer(self, gateway: Gateway, profile: Profile, attack: Attack) -> tuple[Strike, float]:
        most_bytes = profile.limits.page_kb * 1024
        started = time.monotonic()
        try:
            async with asyncio.timeout(profile.limits.call_s + 4 * GRACE_S):
                query = self._aimed(attack.sql)
                answer = await call(gateway, "execute_query", query=query, limit=1000, profile=profile.name)
            strike = Strike(attack, "ok", len(answer["rows"]))
        except GatewayError as error:
            answer, most_bytes = error.to_dict(), ERROR_BYTES
            strike = Strike(attack, error.code, 0)
            if error.code == "internal":
                strike.effects.append(f"internal error: {error.message}")
        except TimeoutError:
            answer = {}
            strike = Strike(attack, "no answer", 0, ["no answer came"])
        seconds = time.monotonic() - started
        reply = to_json(answer).decode()
        if len(reply.encode()) > most_bytes:
            strike.effects.append(f"the reply has {len(reply)} characters")
        hidden = _NEVER if profile.user == "postgres" else (*_NEVER, *_NOT_FOR_THE_READER)
        strike.effects += [f"the reply shows {secret}" for secret in found_in(reply, hidden)]
        return strike, seconds

    async def _session(self, gateway: Gateway, profile: str) -> dict[str, Any]:
        """Return the session that the next caller gets, once the one before has been cleaned up."""
        found: list[dict[str, Any]] = []
        failures: list[GatewayError] = []

        async def read() -> bool:
            try:
                _, session = await gateway.read("next caller", profile, lambda reading: session_of(reading.connection))
            except GatewayError as error:
                failures.append(error)
                return not error.transient and error.code != "timeout"
            found.append(session)
            return True

        await until(read, within_s=RUNS_ON_S)
        if not found:
            raise failures[-1]
        return found[0]

    async def _changes(self, scene: _Scene, before: dict[str, Any]) -> list[str]:
        await scene.probe.is_quiet(within_s=RUNS_ON_S)
        changed = differences(before, await scene.probe.state())
        kept = [change for change in changed if change.partition(":")[0] not in HARMLESS_FACTS]
        return kept + await scene.probe.drain()


def _profile_name(role: str, attack: Attack) -> str:
    if attack.search_path != ("public",):
        return f"{role}-shadow"
    return f"{role}-size" if attack.kind == "size" else role
