"""`pg-gateway drill`: break what lies between a gateway and a database, in every way that there is, and see what comes.

A Toxiproxy of the drill's own stands before each endpoint of one profile. Through a gateway of its own it runs a steady
load, asks the neighbours, and lets a probe look past the gateway whether the database can be reached. The database
itself is never touched, but for the throw-away servers of `--demo`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final, Protocol

from gateway import __version__
from gateway.app import Gateway
from gateway.config import Config
from gateway.drill_load import ALLOWED_FUNCTIONS, Load, ask
from gateway.drill_probe import Probe
from gateway.drill_records import Recording
from gateway.drill_report import Report, Verdict
from gateway.drill_scenarios import Scenario, Site
from gateway.drill_verdict import judge
from gateway.embedded import EmbeddedServer
from gateway.errors import ConfigError, GatewayError
from gateway.pools import PoolStats
from gateway.profiles import Profile
from gateway.toxiproxy import Toxiproxy

# What a fault that outlasts calls leaves to those that are under way at its end: seconds in which to be saved.
_BEYOND_S: Final = 3.0
# A recovery that does not come is waited for so long, beyond what is promised.
_PATIENCE_S: Final = 7.0
_NEIGHBOUR_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to drill. seconds: of each phase. call_s: instead of the profile's own. server: where it is one of ours."""

    config: Config
    profile: str
    scenarios: Sequence[Scenario]
    callers: int = 4
    seconds: float = 5.0
    call_s: float | None = None
    command: str = "pg-gateway drill"
    server: EmbeddedServer | None = None


class Scene(Protocol):
    """What can be seen of a scenario that is under way."""

    recording: Recording

    def pool(self) -> PoolStats | None:
        """Return the numbers of the drilled profile's pool."""


class Watcher(Protocol):
    """Somebody who is told how the drill goes; called on the event loop, so it must not block."""

    def begins(self, report: Report, scenarios: Sequence[Scenario]) -> None:
        """Take note that the first scenario comes next."""

    def enters(self, scene: Scene, phase: str, seconds: float) -> None:
        """Take note of a scenario's next phase, which lasts about so long."""

    def judged(self, verdict: Verdict) -> None:
        """Take note that a scenario is over."""


def drilled_profile(plan: Plan) -> Profile:
    """Return the profile with the limits of the drill; raises ConfigError for one that no proxy can stand before."""
    profile = plan.config.profiles[plan.profile]
    if any(endpoint.host.startswith("/") for endpoint in profile.endpoints):
        raise ConfigError(
            [f"profile {profile.name} is reached through a Unix socket, and a drill needs TCP"],
            hint="Give the profile a host name or an address.",
        )
    limits = profile.limits
    if plan.call_s is not None:
        limits = replace(limits, call_s=plan.call_s, statement_s=min(limits.statement_s, plan.call_s))
    return replace(profile, limits=limits, allow_functions=(*profile.allow_functions, *ALLOWED_FUNCTIONS))


def new_report(plan: Plan) -> Report:
    """Return the report of a drill that has not begun."""
    profile = drilled_profile(plan)
    return Report(
        profile=profile.name,
        address=profile.address,
        call_s=profile.limits.call_s,
        callers=plan.callers,
        seconds=plan.seconds,
        command=plan.command,
        version=__version__,
        began_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def outlasting_s(seconds: float, call_s: float) -> float:
    """Return how long a fault lasts that outlasts a call: at least `seconds`, and some more than whole calls.

    Callers that waited in vain begin again together. Were it to end together with their time, it would be chance
    whether they can be saved.
    """
    beyond_s = min(_BEYOND_S, call_s / 2)
    return max(1, math.ceil((seconds - beyond_s) / call_s)) * call_s + beyond_s


async def run_drill(plan: Plan, report: Report, watcher: Watcher, *, environ: Mapping[str, str]) -> None:
    """Walk through the scenarios and fill in the report.

    Raises ConfigError where Toxiproxy is missing, and the GatewayError of a profile that does not answer without any
    fault. When it is cancelled the report holds what was done until then.
    """
    profile = drilled_profile(plan)
    async with Toxiproxy.run() as toxiproxy:
        endpoints = profile.endpoints
        proxies = [await toxiproxy.proxy(f"host-{n}", (it.host, it.port)) for n, it in enumerate(endpoints, start=1)]
        led = tuple(replace(it, via=proxy.address) for it, proxy in zip(endpoints, proxies, strict=True))
        drilled = replace(profile, endpoints=led)
        profiles = MappingProxyType({**plan.config.profiles, drilled.name: drilled})
        config = replace(plan.config, profiles=profiles, default=drilled.name)
        await _find_neighbours(config, report, environ)
        watcher.begins(report, plan.scenarios)
        site = Site(proxies=proxies, server=plan.server)
        for scenario in plan.scenarios:
            report.interrupted = scenario.name
            walk = _Walk(scenario, site, config=config, plan=plan, report=report, watcher=watcher)
            try:
                recording = await walk.run(environ)
            finally:
                await site.each(lambda proxy: proxy.clear())
            verdict = judge(recording, report.promises)
            report.done.append((recording, verdict))
            watcher.judged(verdict)
        report.interrupted = None


async def _find_neighbours(config: Config, report: Report, environ: Mapping[str, str]) -> None:
    """Ask each other profile once: those that answer are the neighbours."""
    others = [name for name in config.profiles if name != config.default]
    async with Gateway(config, environ=environ) as gateway:

        async def find(name: str) -> str | None:
            try:
                async with asyncio.timeout(_NEIGHBOUR_S):
                    await ask(gateway, name)
            except TimeoutError:
                return f"no answer within {_NEIGHBOUR_S:g} s"
            except GatewayError as error:
                return error.message
            return None

        reasons = await asyncio.gather(*(find(name) for name in others))
    for name, reason in zip(others, reasons, strict=True):
        if reason is None:
            report.neighbours.append(name)
        else:
            report.left_out[name] = reason


class _Walk:
    """One scenario: calm, the fault, the recovery, each with a gateway and a load of its own."""

    def __init__(
        self, scenario: Scenario, site: Site, *, config: Config, plan: Plan, report: Report, watcher: Watcher
    ) -> None:
        self._scenario = scenario
        self._site = site
        self._config = config
        self._plan = plan
        self._neighbours = report.neighbours
        self._promises = report.promises
        self._watcher = watcher
        self._gateway: Gateway | None = None
        self._call_s = report.call_s
        self.recording = Recording(scenario=scenario.name, summary=scenario.summary, call_s=report.call_s)

    def pool(self) -> PoolStats | None:
        return None if self._gateway is None else self._gateway.pool_stats().get(self._config.default)

    async def run(self, environ: Mapping[str, str]) -> Recording:
        """Return what was seen."""
        recording, profile = self.recording, self._config.profiles[self._config.default]
        await self._scenario.prepare(self._site)
        async with Gateway(self._config, environ=environ) as gateway:
            self._gateway = gateway
            load = Load(gateway, profile=profile.name, callers=self._plan.callers)
            await load.warm_up(self._neighbours)
            recording.zero = recording.clock()
            stop = asyncio.Event()
            work = [load.call_on(caller, recording, stop) for caller in range(self._plan.callers)]
            work += [load.ask_neighbour(name, recording, stop) for name in self._neighbours]
            work.append(Probe(profile, environ=environ).run(recording, stop))
            tasks = [asyncio.create_task(one) for one in work]
            try:
                await self._phases()
                stop.set()
                await asyncio.wait(tasks, timeout=self._call_s + self._promises.grace_s + 1)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            recording.ended_s = recording.now()
        for task in tasks:
            if not task.cancelled():
                task.result()
        return recording

    async def _phases(self) -> None:
        recording, fault, seconds = self.recording, self.recording.fault, self._plan.seconds
        self._watcher.enters(self, "calm", seconds)
        await asyncio.sleep(seconds)
        lasts_s = outlasting_s(seconds, self._call_s) if self._scenario.outlasts_a_call else seconds
        self._watcher.enters(self, "fault", lasts_s)
        fault.struck_s = recording.now()

        def in_place() -> None:
            fault.in_place_s = recording.now()

        await self._scenario.strike(self._site, lasts_s, in_place)
        fault.ended_s = recording.now()
        # A fault of a moment has the rest of its phase to show what it did.
        await asyncio.sleep(max(0.0, lasts_s - (fault.ended_s - fault.struck_s)))
        self._watcher.enters(self, "recovery", seconds)
        await asyncio.sleep(seconds)
        give_up_s = recording.now() + self._promises.recover_s + _PATIENCE_S
        while recording.now() < give_up_s and None in (recording.back_s(), recording.recovered_s()):  # noqa: ASYNC110 - two lists grow, and neither tells
            await asyncio.sleep(0.1)
