"""Which host of a profile is dialled, in which order, and whether an open connection still leads where it should.

A host is judged by its role: `pg_is_in_recovery()` at the dial, and what the server says by itself later (PostgreSQL 14
and newer report `in_hot_standby` along with the reply to the next statement).

A failover may leave the old primary behind, up and sure of itself. Two things give it away. A promotion begins a new
timeline of the write-ahead log, whose number is higher: the highest one seen in each database system is remembered, and
a primary on a lower one is refused at the dial. And where the hosts hide behind one name, as on Azure, the name has
another address. Nobody tells an open connection of either, so while a profile is in use its hosts are looked at every
LOOK_EVERY_S, behind the callers' backs, and connections that no longer fit are given up.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import time
import weakref
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

import asyncpg
from asyncpg.exceptions import InternalClientError

from gateway.connect import GatewayConnection
from gateway.deadline import Clock, Deadline
from gateway.dial_loop import LookUp, look_up
from gateway.errors import GatewayError, Unavailable
from gateway.pg_errors import from_dial
from gateway.profiles import Endpoint, Profile
from gateway.standing import Standing, reported_role, standing_of
from gateway.threads import Threads

logger = logging.getLogger(__name__)

DialOne = Callable[[Endpoint, Deadline], Awaitable[GatewayConnection]]

LOOK_EVERY_S: Final = 30.0
# One host may take so long to be looked at, one name to be looked up.
_LOOK_S: Final = 5.0
# A host that failed is asked last for so long, or a silent one would cost its share of the time at each dial.
_LAST_FOR_S: Final = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """A connection that is open, and what was known when it was made."""

    connection: weakref.ref[GatewayConnection]
    standing: Standing | None
    at: float


def _has_moving_name(endpoint: Endpoint) -> bool:
    """Say whether the host is a name that another address may be given to."""
    host = endpoint.via[0] if endpoint.via else endpoint.host
    if host.startswith("/") or host == "localhost":
        return False
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False


class Watch:
    """What is known of a profile's hosts, and the connections made to them."""

    def __init__(self, profile: Profile, *, look_up: LookUp = look_up, clock: Clock = time.monotonic) -> None:
        """Make a watch that has seen nothing yet. look_up: blocks until it has the addresses of a name."""
        self._profile = profile
        self._look_up = look_up
        self._clock = clock
        self._threads = Threads(profile.name)
        self._made: dict[str, _Made] = {}
        self._failed_at: dict[Endpoint, float] = {}
        self._standings: dict[Endpoint, tuple[Standing, float]] = {}
        # The highest timeline by database system: a new system, as after an upgrade, begins anew.
        self._timelines: dict[str, int] = {}
        self._addresses: dict[Endpoint, frozenset[str]] = {}
        # Since when a name has had these addresses: two looks in a row, so that names that rotate do not count.
        self._settled_at: dict[Endpoint, float] = {}
        self._named = tuple(filter(_has_moving_name, profile.endpoints))
        self._asks_roles = profile.target != "any"
        self.looks = bool(self._named) or (self._asks_roles and len(profile.endpoints) > 1)

    def order(self) -> list[Endpoint]:
        """Return the hosts as they are to be tried: in their order, another role's later, those that failed last."""

        def rank(endpoint: Endpoint) -> tuple[bool, bool]:
            known = self._standings.get(endpoint)
            return self.failed_just_now(endpoint), known is not None and self.refusal(known[0]) is not None

        return sorted(self._profile.endpoints, key=rank)

    def failed_just_now(self, endpoint: Endpoint) -> bool:
        """Say whether the host did not answer a moment ago."""
        at = self._failed_at.get(endpoint)
        return at is not None and self._clock() - at < _LAST_FOR_S

    def failed(self, endpoint: Endpoint) -> None:
        """Take note that a host could not be reached."""
        self._failed_at[endpoint] = self._clock()
        self._standings.pop(endpoint, None)

    async def ask(self, connection: GatewayConnection, endpoint: Endpoint) -> Standing | None:
        """Return what the host at the other end is, having taken note of it; None where the target is `any`."""
        self._failed_at.pop(endpoint, None)
        if not self._asks_roles:
            return None
        reported = None if self._profile.is_pooled else reported_role(connection)
        if reported is True or (reported is False and self._profile.target == "standby"):
            # The login has said it already, and nothing more is needed.
            standing = Standing(is_standby=reported)
        else:
            standing = await standing_of(connection, self._profile)
        self._note(endpoint, standing)
        return standing

    def _note(self, endpoint: Endpoint, standing: Standing) -> None:
        self._standings[endpoint] = standing, self._clock()
        highest = self._timelines.get(standing.system, 0)
        if standing.timeline > highest:
            self._timelines[standing.system] = standing.timeline
            if highest:
                logger.warning(
                    "profile=%s: there was a failover: %s is %s; connections to an older primary are given up",
                    self._profile.name,
                    endpoint,
                    standing,
                )

    def refusal(self, standing: Standing | None) -> str | None:
        """Return why a host of this standing is not what the profile asks for, as a clause, or None."""
        if standing is None:
            return None
        if standing.is_standby:
            return "is a standby" if self._profile.target == "primary" else None
        highest = self._timelines.get(standing.system, 0)
        if standing.timeline and standing.timeline < highest:
            return f"is a primary left behind on timeline {standing.timeline} by a failover to {highest}"
        return None if self._profile.target == "primary" else "is a primary"

    def is_stale(self, standing: Standing | None) -> bool:
        """Say whether it is a primary that a failover has left behind."""
        return standing is not None and 0 < standing.timeline < self._timelines.get(standing.system, 0)

    def made(self, connection: GatewayConnection, standing: Standing | None) -> None:
        """Take note of a connection that is handed out."""
        gone = [name for name, known in self._made.items() if _lost(known.connection())]
        for name in gone:
            del self._made[name]
        self._made[connection.session_name] = _Made(
            connection=weakref.ref(connection), standing=standing, at=self._clock()
        )

    def fits(self, connection: GatewayConnection) -> bool:
        """Say whether a connection still leads to a host that the profile asks for. No round trip."""
        if not self.looks and not self._asks_roles:
            return True
        known = self._made.get(connection.session_name)
        if known is None or connection.endpoint is None:
            return True
        if connection.endpoint in self._settled_at and self._has_moved(connection, connection.endpoint, known.at):
            return False
        if not self._asks_roles:
            return True
        standing = self._present(connection, connection.endpoint, known)
        if self.refusal(standing) is None:
            return True
        # A primary will do for as long as there was no standby.
        return (
            self._profile.target == "prefer-standby"
            and not self.is_stale(standing)
            and not self._has_standby(since=known.at)
        )

    def _present(self, connection: GatewayConnection, endpoint: Endpoint, known: _Made) -> Standing | None:
        """Return the standing by the latest that was heard: at the dial, from the server, or at a look."""
        standing = known.standing
        reported = None if self._profile.is_pooled else reported_role(connection)
        if standing is not None and reported is not None and reported != standing.is_standby:
            standing = Standing(is_standby=reported)
        seen = self._standings.get(endpoint)
        if standing is not None and seen is not None and seen[1] > known.at and standing.is_standby:
            # Idle connections to a standby are not told of its promotion.
            standing = seen[0]
        return standing

    def _has_standby(self, *, since: float) -> bool:
        return any(standing.is_standby and at > since for standing, at in self._standings.values())

    def _has_moved(self, connection: GatewayConnection, endpoint: Endpoint, made_at: float) -> bool:
        return self._settled_at[endpoint] > made_at and connection.peer not in self._addresses[endpoint]

    def unfit(self) -> list[GatewayConnection]:
        """Return the open connections that no longer fit, in use or not."""
        connections = (known.connection() for known in self._made.values())
        return [found for found in connections if found is not None and not _lost(found) and not self.fits(found)]

    async def look(self, dial_one: DialOne) -> None:
        """Look once at the hosts and their names; a host or a name server that does not answer costs some seconds."""
        if self._asks_roles and len(self._profile.endpoints) > 1:
            for endpoint in self._profile.endpoints:
                await self._look_at(endpoint, dial_one)
        for endpoint in self._named:
            # What cannot be looked up now has not moved.
            with contextlib.suppress(TimeoutError, OSError, UnicodeError):
                await self._look_up_name(endpoint)

    async def _look_at(self, endpoint: Endpoint, dial_one: DialOne) -> None:
        deadline = Deadline.after(_LOOK_S)
        try:
            connection = await dial_one(endpoint, deadline)
            try:
                async with deadline.scope():
                    await self.ask(connection, endpoint)
            finally:
                connection.terminate()
        except GatewayError as error:
            self.failed(endpoint)
            logger.info("profile=%s: %s could not be looked at: %s", self._profile.name, endpoint, error.message)
        except (TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, InternalClientError, OSError):
            self.failed(endpoint)

    async def _look_up_name(self, endpoint: Endpoint) -> None:
        async with asyncio.timeout(_LOOK_S):
            found = await self._threads.run(self._look_up, *(endpoint.via or (endpoint.host, endpoint.port)))
        addresses = frozenset(str(entry[4][0]) for entry in found)
        if addresses == self._addresses.get(endpoint):
            self._settled_at[endpoint] = self._clock()
        else:
            self._addresses[endpoint] = addresses
            self._settled_at.pop(endpoint, None)


def _lost(connection: GatewayConnection | None) -> bool:
    return connection is None or connection.is_closed()


async def dial_target(profile: Profile, dial_one: DialOne, *, deadline: Deadline, watch: Watch) -> GatewayConnection:
    """Return a connection to the first host that answers and fits the profile's target.

    Each host gets an equal share of what is left of the deadline. Raises what a host said that repetition does not
    mend, such as a refused login, at once; else, when no host will do, Unavailable with what each of them said.
    """
    hosts = watch.order()
    errors: dict[Endpoint, GatewayError] = {}
    refusals: list[str] = []
    spare: GatewayConnection | None = None
    try:
        for place, endpoint in enumerate(hosts):
            if spare is not None and watch.failed_just_now(endpoint):
                continue
            share = deadline
            if len(hosts) > 1:
                share = Deadline.after(deadline.left() / (len(hosts) - place))
            try:
                connection, standing = await _reach(profile, endpoint, dial_one, deadline=share, watch=watch)
            except GatewayError as error:
                # A refused login is refused by the next server, too.
                if error.repeat == "never" or len(hosts) == 1:
                    raise
                watch.failed(endpoint)
                errors[endpoint] = error
                continue
            refusal = watch.refusal(standing)
            if refusal is None:
                watch.made(connection, standing)
                return connection
            refusals.append(f"{endpoint} {refusal}")
            if profile.target == "prefer-standby" and spare is None and not watch.is_stale(standing):
                watch.made(connection, standing)
                spare = connection
            else:
                connection.terminate()
        if spare is not None:
            chosen, spare = spare, None
            return chosen
    finally:
        if spare is not None:
            spare.terminate()
    raise _none_will_do(profile, refusals, errors)


async def _reach(
    profile: Profile, endpoint: Endpoint, dial_one: DialOne, *, deadline: Deadline, watch: Watch
) -> tuple[GatewayConnection, Standing | None]:
    connection = await dial_one(endpoint, deadline)
    try:
        async with deadline.scope():
            return connection, await watch.ask(connection, endpoint)
    except BaseException as error:
        connection.terminate()
        if isinstance(error, Exception):
            raise from_dial(error, profile=profile.name, endpoint=str(endpoint), stage="login") from error
        raise


def _none_will_do(profile: Profile, refusals: list[str], errors: Mapping[Endpoint, GatewayError]) -> Unavailable:
    """Return what is told when every host was asked: what each of them said."""
    # The server's own words do not say which server it was.
    failures = [
        error.message if str(endpoint) in error.message else f"{endpoint} said: {error.message}"
        for endpoint, error in errors.items()
    ]
    if refusals:
        wanted = {"primary": "primary", "standby": "standby"}.get(profile.target, "host that will do")
        message = f"no {wanted} among the hosts of profile {profile.name}"
        hint = f'A failover may be under way; otherwise target = "{profile.target}" does not match these hosts.'
    else:
        message = f"no host of profile {profile.name} can be reached"
        hint = "Is the server running, and do the addresses in `hosts` match?"
    return Unavailable(
        f"{message}: {', '.join([*refusals, *failures])}",
        hint=f"{hint} `pg-gateway check {profile.name}` asks each of them.",
        profile=profile.name,
        repeat="always",
        is_unproven=all(error.is_unproven for error in errors.values()),
    )
