"""The table of the matrix: every fault, every moment, what a call may answer then, and the cells that make no sense.

What each toxic does exactly to a connection that is there, to a new one and when it is taken away:
https://github.com/Shopify/toxiproxy#toxics, and link.go, toxics/*.go there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from gateway.tools import TOOLS
from gateway.toxiproxy import Proxy

Moment = Literal["before_the_dial", "idle", "in_mid_query", "in_mid_reply"]
MOMENTS: tuple[Moment, ...] = ("before_the_dial", "idle", "in_mid_query", "in_mid_reply")
TOOL_NAMES = tuple(tool.name for tool in TOOLS)

Codes = frozenset[str]
ANSWERED: Codes = frozenset({"ok"})
LOST: Codes = frozenset({"unavailable"})
# The link is open and says nothing: before there is a connection it cannot be had, afterwards the time runs out.
SILENT: Mapping[Moment, Codes] = MappingProxyType(
    {
        "before_the_dial": LOST,
        "idle": frozenset({"timeout"}),
        "in_mid_query": frozenset({"timeout"}),
        "in_mid_reply": frozenset({"timeout"}),
    }
)
# An address on loopback where nobody listens: nothing uses port 1 any more.
NOBODY = ("127.0.0.1", 1)

Second = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One way in which a network fails. Given the proxy and the address of the second server, `strike` makes it so.

    codes: what the call under it may answer. prepare: what has to be there before a connection is made. at_least_s: a
    call under it cannot take less. cuts: what runs is lost, and tried again. moves: the answer comes from the second
    server.
    """

    name: str
    strike: Callable[[Proxy, Second], Awaitable[object]]
    codes: Codes | Mapping[Moment, Codes] = field(default=ANSWERED)
    prepare: Callable[[Proxy], Awaitable[object]] | None = None
    at_least_s: float = 0.0
    cuts: bool = False
    moves: bool = False

    def allowed(self, moment: Moment) -> Codes:
        """Return what a call may answer."""
        return self.codes if isinstance(self.codes, frozenset) else self.codes[moment]


def _toxic(kind: str, *, toxicity: float = 1.0, **attributes: int) -> Callable[[Proxy, Second], Awaitable[object]]:
    def strike(proxy: Proxy, _second: Second) -> Awaitable[object]:
        return proxy.add(kind, stream="downstream", name="fault", toxicity=toxicity, **attributes)

    return strike


async def _reset(proxy: Proxy, _second: Second) -> None:
    await proxy.down()
    await proxy.up()


FAULTS: tuple[Fault, ...] = (
    # What is slow is answered all the same.
    Fault(name="latency", strike=_toxic("latency", latency=50), at_least_s=0.05),
    Fault(name="jitter", strike=_toxic("latency", latency=40, jitter=40)),
    Fault(name="bandwidth_slow", strike=_toxic("bandwidth", rate=1000)),
    Fault(name="slicer", strike=_toxic("slicer", average_size=1024, size_variation=512, delay=100)),
    Fault(name="slow_close", strike=_toxic("slow_close", delay=1000)),
    # What is silent is given up at the deadline.
    Fault(name="bandwidth_0", strike=_toxic("bandwidth", rate=0), codes=SILENT),
    Fault(name="timeout_0", strike=_toxic("timeout", timeout=0), codes=SILENT),
    # What closes every connection, for as long as it lasts, leaves nothing to answer with.
    Fault(name="timeout_300", strike=_toxic("timeout", timeout=300), codes=LOST),
    Fault(name="reset_peer", strike=_toxic("reset_peer", timeout=0), codes=LOST),
    Fault(name="limit_data", strike=_toxic("limit_data", bytes=400), codes=LOST),
    Fault(name="down", strike=lambda proxy, _second: proxy.down(), codes=LOST),
    Fault(name="upstream_dead", strike=lambda proxy, _second: proxy.point_at(NOBODY), codes=LOST),
    # What cuts once, or some connections, costs another try and no answer.
    Fault(
        name="reset",
        strike=_reset,
        # A link that starts with this toxic in its chain, even one that does nothing, ends with an RST, not a FIN.
        prepare=lambda proxy: proxy.add("reset_peer", name="linger", toxicity=0.0, timeout=0),
        cuts=True,
    ),
    Fault(name="upstream_changed", strike=lambda proxy, second: proxy.point_at(second), cuts=True, moves=True),
    Fault(name="half_of_connections", strike=_toxic("reset_peer", toxicity=0.5, timeout=0)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Senseless:
    """Cells that make no sense, for every tool alike, and why."""

    fault: str
    moment: Moment
    reason: str


SENSELESS: tuple[Senseless, ...] = (
    Senseless(
        fault="reset",
        moment="before_the_dial",
        reason="there is no connection to reset yet; a dial that is reset is the row reset_peer",
    ),
    Senseless(
        fault="upstream_changed",
        moment="before_the_dial",
        reason="nothing has seen the old upstream yet: it is an ordinary dial",
    ),
)

# The cut that the quick run takes: each kind of outcome, each moment.
QUICK: frozenset[tuple[str, Moment]] = frozenset(
    {
        ("latency", "before_the_dial"),
        ("timeout_0", "in_mid_query"),
        ("reset", "in_mid_query"),
        ("down", "idle"),
        ("upstream_changed", "in_mid_reply"),
    }
)
