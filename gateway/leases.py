"""Who holds the connections of a pool, since when, and who has a place and waits for its connection."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, replace
from typing import Final

from gateway.connect import GatewayConnection
from gateway.deadline import AWAITED, Stages
from gateway.profiles import Endpoint

_NAMED: Final = 3


@dataclass(frozen=True, slots=True)
class Backend:
    """The server's side of a connection: a connection that is lost says nothing of it any more."""

    endpoint: Endpoint
    pid: int
    name: str


@dataclass(slots=True)
class Lease:
    """A place in the pool. stages: what its holder waits for. backend: once there is a connection."""

    number: int
    holder: str
    stages: Stages
    since: float
    backend: Backend | None = None

    def told(self, now: float) -> str:
        """Return who holds it and for how long."""
        awaited = "" if self.backend else f", still waiting for {AWAITED[self.stages.now]}"
        return f"{self.holder} for {now - self.since:.1f} s{awaited}"


def backend_of(connection: GatewayConnection) -> Backend:
    """Return the backend behind a connection, with its server by address: its name may lead elsewhere by now."""
    endpoint, peer = connection.endpoint, connection.peer
    if endpoint is None:
        raise RuntimeError("a connection of the pool was not made by its dialler")
    if peer is not None and not endpoint.host.startswith("/"):
        endpoint = replace(endpoint, via=(peer, endpoint.via[1] if endpoint.via else endpoint.port))
    return Backend(endpoint, connection.get_server_pid(), connection.session_name)


class Leases:
    """The leases of one pool."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._held: dict[int, Lease] = {}

    def begin(self, holder: str, stages: Stages) -> Lease:
        """Note that `holder` has a place from now on."""
        lease = Lease(next(self._numbers), holder, stages, time.monotonic())
        self._held[lease.number] = lease
        return lease

    def end(self, lease: Lease) -> None:
        """Note that the place is free again."""
        del self._held[lease.number]

    def backends(self) -> list[Backend]:
        """Return the backends of the connections that are held."""
        return [lease.backend for lease in self._held.values() if lease.backend is not None]

    def told(self) -> str:
        """Return who holds the places, the longest first, for people; empty where nobody does."""
        held = sorted(self._held.values(), key=lambda lease: lease.since)
        now = time.monotonic()
        named = [lease.told(now) for lease in held[:_NAMED]]
        if len(held) > _NAMED:
            named.append(f"{len(held) - _NAMED} more")
        return f" ({', '.join(named)})" if named else ""
