"""The faults of a drill: what lies between the gateway and a database breaks, in a way of its own each.

All but two act on the proxy alone, so the database itself is never touched. `restart` and `crash` stop a server; they
exist only where that server is a throw-away one. What a toxic does exactly is Toxiproxy's business
(https://github.com/Shopify/toxiproxy#toxics).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gateway.embedded import EmbeddedServer
from gateway.toxiproxy import Proxy

_FLAP_S: Final = 0.5
_CRASH_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where the faults happen: a proxy before each endpoint of the profile, and the server where it is our own."""

    proxies: Sequence[Proxy]
    server: EmbeddedServer | None = None

    async def each(self, act: Callable[[Proxy], Awaitable[Any]]) -> None:
        """Do the same to every proxy, side by side."""
        await asyncio.gather(*(act(proxy) for proxy in self.proxies))


# Takes the site, the seconds that the fault is to last, and what to call as soon as it is wholly in place; ends with
# the fault taken away.
Strike = Callable[[Site, float, Callable[[], None]], Awaitable[None]]


async def _nothing(_site: Site) -> None:
    """Stand for the preparations of a scenario that needs none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One fault. prepare: what has to lie in wait before the gateway connects.

    own_server: only with --demo. outlasts_a_call: it lasts longer than a call's whole time, so that what callers are
    told at the end of it is seen.
    """

    name: str
    summary: str
    strike: Strike
    prepare: Callable[[Site], Awaitable[None]] = _nothing
    own_server: bool = False
    outlasts_a_call: bool = False


async def _killed(site: Site, _seconds: float, in_place: Callable[[], None]) -> None:
    await site.each(lambda proxy: proxy.down())
    in_place()
    await site.each(lambda proxy: proxy.up())


async def _refused(site: Site, seconds: float, in_place: Callable[[], None]) -> None:
    await site.each(lambda proxy: proxy.down())
    in_place()
    await asyncio.sleep(seconds)
    await site.each(lambda proxy: proxy.up())


async def _flapping(site: Site, seconds: float, in_place: Callable[[], None]) -> None:
    until = time.monotonic() + seconds
    await site.each(lambda proxy: proxy.down())
    in_place()
    while time.monotonic() < until:
        await asyncio.sleep(_FLAP_S)
        await site.each(lambda proxy: proxy.up())
        await asyncio.sleep(_FLAP_S)
        await site.each(lambda proxy: proxy.down())
    await site.each(lambda proxy: proxy.up())


def _toxics(*kinds: tuple[str, dict[str, int]], toxicity: float = 1.0) -> Strike:
    """Return the fault of these toxics, in their order from the server to the gateway."""

    async def strike(site: Site, seconds: float, in_place: Callable[[], None]) -> None:
        for kind, attributes in kinds:
            await site.each(lambda proxy, k=kind, a=attributes: proxy.add(k, name=k, toxicity=toxicity, **a))  # type: ignore[misc] # bound at once
        in_place()
        await asyncio.sleep(seconds)
        for kind, _ in reversed(kinds):
            await site.each(lambda proxy, k=kind: proxy.remove(k))  # type: ignore[misc] # as above

    return strike


async def _arm_reset(site: Site) -> None:
    # Toxiproxy closes with a RST only the connections that were made while this toxic was there, at whatever share.
    await site.each(lambda proxy: proxy.add("reset_peer", name="reset", toxicity=0.0, timeout=0))


def _reset(toxicity: float) -> Strike:
    async def strike(site: Site, seconds: float, in_place: Callable[[], None]) -> None:
        await site.each(lambda proxy: proxy.change("reset", toxicity=toxicity))
        in_place()
        await asyncio.sleep(seconds)
        await site.each(lambda proxy: proxy.remove("reset"))

    return strike


def _own(site: Site) -> EmbeddedServer:
    if site.server is None:
        raise ValueError("this scenario stops a server, which must be one of our own")
    return site.server


async def _restart(site: Site, _seconds: float, in_place: Callable[[], None]) -> None:
    server = _own(site)
    await server.stop("fast")
    in_place()
    await server.start()


async def _crash(site: Site, _seconds: float, in_place: Callable[[], None]) -> None:
    server = _own(site)
    await server.stop("immediate")
    in_place()
    await asyncio.sleep(_CRASH_S)
    await server.start()


SCENARIOS: Final[tuple[Scenario, ...]] = (
    Scenario(
        name="killed", summary="every connection is closed at one blow; new ones are taken at once", strike=_killed
    ),
    Scenario(name="refused", summary="connections are closed and new ones refused", strike=_refused),
    Scenario(
        name="reset",
        summary="connections are reset in mid-query, new ones in mid-dial",
        prepare=_arm_reset,
        strike=_reset(1.0),
    ),
    Scenario(
        name="latency",
        summary="each answer comes 300 ms later",
        strike=_toxics(("latency", {"latency": 300, "jitter": 0})),
    ),
    Scenario(
        name="jitter",
        summary="each answer comes 0 to 400 ms later",
        strike=_toxics(("latency", {"latency": 200, "jitter": 200})),
    ),
    Scenario(
        name="slow", summary="each connection carries 16 kB a second", strike=_toxics(("bandwidth", {"rate": 16}))
    ),
    Scenario(
        name="black-hole",
        summary="connections stay open and answers vanish, for longer than a call may take",
        strike=_toxics(("timeout", {"timeout": 0})),
        outlasts_a_call=True,
    ),
    Scenario(
        name="cut",
        summary="each connection is closed after 20 kB, which is in mid-reply",
        strike=_toxics(("limit_data", {"bytes": 20_000})),
    ),
    Scenario(
        name="slow-close",
        summary="each connection falls silent after 20 kB, and is closed a second later",
        strike=_toxics(("limit_data", {"bytes": 20_000}), ("slow_close", {"delay": 1000})),
    ),
    Scenario(
        name="half",
        summary="half of the connections are reset, old and new ones",
        prepare=_arm_reset,
        strike=_reset(0.5),
    ),
    Scenario(
        name="flapping", summary="connections are refused and taken in turn, half a second each", strike=_flapping
    ),
    Scenario(
        name="restart", summary="the server is restarted (fast: sessions are ended)", strike=_restart, own_server=True
    ),
    Scenario(
        name="crash",
        summary="the server is killed (immediate stop), and started again after 5 s",
        strike=_crash,
        own_server=True,
    ),
)
