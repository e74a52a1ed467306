"""A pool of connections per profile, made at its first call.

Creating never connects: asyncpg's pool gets `min_size=0`, so a failed first call leaves nothing behind and concurrent
first calls share one pool. A fair semaphore of our own stands before it, so that waiting for a connection is told
apart from opening one. A connection is rolled back and reset after the caller has the answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, cast

import asyncpg

from gateway.backends import BROKEN, Backends
from gateway.connect import Dialler, GatewayConnection
from gateway.deadline import Deadline, Stages
from gateway.dial_loop import LookUp, look_up
from gateway.errors import Busy, CallTimeout, GatewayError, Unavailable
from gateway.hosts import LOOK_EVERY_S, DialOne, Watch, dial_target
from gateway.leases import Backend, Lease, Leases, backend_of
from gateway.observe import Notify
from gateway.pg_errors import is_unfit
from gateway.profiles import Endpoint, Profile
from gateway.turns import Asking, Turns

logger = logging.getLogger(__name__)

# Leave nothing of the caller in the session; behind ROLLBACK in the same message where a transaction is open.
_RESET_SQL: Final = "SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL"
# Behind a pooler: a function of the owner's may have taken a lock that outlives the transaction.
_END_POOLED_SQL: Final = "ROLLBACK; SELECT pg_catalog.pg_advisory_unlock_all()"
_RESET_S: Final = 2.0
_NEARLY_FREE_S: Final = 0.3
# Below the four minutes after which Azure's load balancer forgets an idle connection.
_IDLE_S: Final = 200.0
_WARM_EVERY_S: Final = 30.0
# A dial answers by itself in its time; this is for a driver that does not.
_GRACE_S: Final = 0.25
# So many callers may wait for each connection; more are turned away at once, since memory is bounded, too.
_QUEUE_PER_CONNECTION: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStats:
    """Connections of one profile right now: open, idle, in use or being reset; callers that wait."""

    size: int
    idle: int
    busy: int
    waiting: int
    max: int


async def _no_reset(_connection: asyncpg.Connection) -> None:
    """Stand for asyncpg's own reset: ours has run by then, in the same message as the rollback."""


class ProfilePool:
    """The connections of one profile."""

    def __init__(
        self,
        profile: Profile,
        *,
        environ: Mapping[str, str],
        tell: Notify,
        look_up: LookUp = look_up,
        idle_s: float = _IDLE_S,
        look_every_s: float = LOOK_EVERY_S,
        warm_every_s: float = _WARM_EVERY_S,
    ) -> None:
        """Make a pool. look_up: finds the addresses of a name. idle_s: how long an idle connection is kept.

        look_every_s: how often it is seen to whether the hosts are still what they were. warm_every_s: how often to
        whether `pool_size.min` connections are open.
        """
        self.profile = profile
        self._dialler = Dialler(profile, environ=environ, tell=tell, look_up=look_up)
        # With threads of its own: nobody waits for what it waits for.
        self._looker = Dialler(profile, environ=environ, tell=lambda _record: None, look_up=look_up)
        self._watch = Watch(profile, look_up=look_up)
        self._watcher: asyncio.Task[None] | None = None
        self._look_every_s = look_every_s
        self._idle_s = idle_s
        self._warm_every_s = warm_every_s
        self._permits = asyncio.Semaphore(profile.pool.max)
        self._turns = Turns(profile)
        self._backends = Backends(profile, self._dialler)
        self._pool: asyncpg.Pool | None = None
        self._cleaning: set[asyncio.Task[None]] = set()
        # Those of them after a call that ended well: free in a moment.
        self._resetting: set[asyncio.Task[None]] = set()
        self._warmer: asyncio.Task[None] | None = None
        self._waiting = 0
        self._leases = Leases()
        # asyncpg calls the dial from within `acquire`, in the caller's task, without saying for whom.
        self._asking: ContextVar[Asking | None] = ContextVar("asking", default=None)

    def stats(self) -> PoolStats:
        """Return the numbers of this moment."""
        size = self._pool.get_size() if self._pool is not None else 0
        idle = self._pool.get_idle_size() if self._pool is not None else 0
        return PoolStats(size=size, idle=idle, busy=size - idle, waiting=self._waiting, max=self.profile.pool.max)

    async def _dial(self, *_args: Any, **_kwargs: Any) -> GatewayConnection:
        asking = self._asking.get() or Asking(Deadline.after(self.profile.limits.call_s), Stages())
        dial_one = self._dial_by(self._dialler, asking.stages)
        async with self._turns.turn(asking):
            return await dial_target(self.profile, dial_one, deadline=asking.deadline, watch=self._watch)

    def _dial_by(self, dialler: Dialler, stages: Stages | None) -> DialOne:
        async def dial_one(endpoint: Endpoint, deadline: Deadline) -> GatewayConnection:
            return await dialler.dial(endpoint, deadline=deadline, stages=stages)

        return dial_one

    def _made(self) -> asyncpg.Pool:
        """Return the pool, making it at the first call; there is no await, so no two callers make two."""
        if self._pool is None:
            self._pool = asyncpg.create_pool(
                min_size=0,
                max_size=self.profile.pool.max,
                max_inactive_connection_lifetime=self._idle_s,
                connect=self._dial,
                reset=_no_reset,
                connection_class=GatewayConnection,
            )
        return self._pool

    def _in_use(self) -> str:
        return f"all {self.profile.pool.max} connections of profile {self.profile.name} are in use{self._leases.told()}"

    async def _permit(self, deadline: Deadline, stages: Stages) -> None:
        if not self._permits.locked():
            await self._permits.acquire()
            return
        if self._waiting >= _QUEUE_PER_CONNECTION * self.profile.pool.max:
            raise Busy(
                f"{self._in_use()} and {self._waiting} callers wait for them",
                hint="Call less at once, or raise `pool_size.max` of the profile.",
                profile=self.profile.name,
            )
        stages.enter("pool")
        started = time.monotonic()
        self._waiting += 1
        try:
            async with deadline.scope(at_most=self.profile.limits.acquire_s):
                await self._permits.acquire()
        except TimeoutError:
            others = f", {self._waiting - 1} others wait" if self._waiting > 1 else ""
            raise Busy(
                f"{self._in_use()}{others}; waited {time.monotonic() - started:.1f} s",
                hint="Try again in a moment, or raise `pool_size.max` of the profile.",
                profile=self.profile.name,
            ) from None
        finally:
            self._waiting -= 1

    async def _acquire(self, deadline: Deadline, dial_s: float | None, stages: Stages) -> GatewayConnection:
        stages.enter("pool")
        pool = await self._made()
        if self._resetting and pool.get_idle_size() == 0:
            # A connection that is being reset is free in one round trip; a new one takes six.
            await asyncio.wait(
                self._resetting, timeout=deadline.left(at_most=_NEARLY_FREE_S), return_when=asyncio.FIRST_COMPLETED
            )
        dial_by = deadline if dial_s is None else Deadline.after(deadline.left(at_most=dial_s))
        self._asking.set(Asking(dial_by, stages))
        try:
            async with asyncio.timeout(dial_by.left() + _GRACE_S):
                connection = await self._fitting(pool)
        except TimeoutError:
            raise Unavailable(
                f"no connection to {self.profile.endpoints[0]} within {dial_by.budget_s:.1f} s: {stages.told()}",
                hint="`pg-gateway check` names the step that hangs.",
                profile=self.profile.name,
                repeat="always",
            ) from None
        except BROKEN as error:
            raise Unavailable(
                "the connection was lost before it could be used",
                hint="Try again.",
                profile=self.profile.name,
                repeat="always",
            ) from error
        stages.enter("statement")
        return connection

    async def _fitting(self, pool: asyncpg.Pool) -> GatewayConnection:
        """Return a connection to a host that the profile still asks for, giving up idle ones to any other."""
        while True:
            connection = cast("GatewayConnection", await pool.acquire())
            if self._watch.fits(connection):
                return connection
            connection.terminate()
            await pool.release(cast("Any", connection))

    @contextlib.asynccontextmanager
    async def connection(
        self,
        deadline: Deadline,
        *,
        dial_s: float | None = None,
        stages: Stages | None = None,
        holder: str = "the gateway itself",
    ) -> AsyncIterator[GatewayConnection]:
        """Lend a connection; raises Busy, Unavailable or the dial's error within the deadline, the dial's in `dial_s`.

        stages: is told what is being waited for. holder: whom others are told of while they wait. On the way out the
        caller is not kept waiting: rollback and reset run behind it, and the place in the pool is given to the next
        caller when they are done.
        """
        stages = stages or Stages()
        await self._permit(deadline, stages)
        lease = self._leases.begin(holder, stages)
        try:
            connection = await self._acquire(deadline, dial_s, stages)
            backend = lease.backend = backend_of(connection)
        except BaseException:
            self._leases.end(lease)
            self._permits.release()
            raise
        owners = [self._cleaning]
        gave_up = False
        try:
            yield connection
            owners.append(self._resetting)
        except Exception as error:
            # Whoever has waited in vain does not know what became of the statement.
            gave_up = isinstance(error, CallTimeout) or isinstance(error.__cause__, TimeoutError)
            if is_unfit(error):
                connection.terminate()
            raise
        finally:
            task = asyncio.get_running_loop().create_task(self._clean(connection, lease, backend, gave_up=gave_up))
            for owner in owners:
                owner.add(task)
                task.add_done_callback(owner.discard)
            self._keep_warm()

    def _reset_sql(self, connection: GatewayConnection) -> str:
        is_open = connection.is_in_transaction()
        if self.profile.is_pooled:
            # What was set was set for the transaction alone. The same message runs in the same session: the next one
            # may run in another.
            return _END_POOLED_SQL if is_open else ""
        return f"ROLLBACK; {_RESET_SQL}" if is_open else _RESET_SQL

    async def _clean(self, connection: GatewayConnection, lease: Lease, backend: Backend, *, gave_up: bool) -> None:
        """Make the connection fit for the next caller, or end it and what still runs behind it."""
        # After a deadline it may be the driver that has closed the connection, while the backend works on.
        ended = not (gave_up and connection.is_closed())
        try:
            try:
                async with asyncio.timeout(_RESET_S):
                    if not connection.is_closed():
                        if self.profile.is_pooled and not connection.is_in_transaction():
                            # What was given up may be about to open one; this comes behind it.
                            await connection.execute("SELECT")
                        reset = self._reset_sql(connection)
                        if reset:
                            await connection.execute(reset)
                        await connection.close_evicted()
                    if not connection.is_closed() and not self._watch.fits(connection):
                        connection.terminate()
            except BROKEN as error:
                # A lost connection takes its backend along; one that does not answer may leave it at work.
                ended = not gave_up and not isinstance(error, TimeoutError)
                # asyncpg's pool has taken back a connection that was lost, and then refuses even this.
                with contextlib.suppress(asyncpg.InterfaceError):
                    connection.terminate()
                # The idle ones may be going the same way, or their link be silent: they are dialled anew.
                await self._expire()
            with contextlib.suppress(*BROKEN):
                await self._made().release(cast("Any", connection), timeout=_RESET_S)
            if not ended:
                await self._backends.end(backend)
        finally:
            self._leases.end(lease)
            self._permits.release()

    async def _expire(self) -> None:
        if self._pool is not None:
            await self._pool.expire_connections()

    def _end_unfit(self) -> None:
        """End idle connections to hosts that the profile no longer asks for; those in use end with their call."""
        in_use = {backend.name for backend in self._leases.backends()}
        for connection in self._watch.unfit():
            if connection.session_name not in in_use:
                connection.terminate()

    async def _look(self) -> None:
        """See now and then, while there are connections, whether the hosts are still what they were."""
        dial_one = self._dial_by(self._looker, None)
        while True:
            # The first time at once: a gateway that starts after a failover has seen no higher timeline yet.
            if self.stats().size:
                await self._watch.look(dial_one)
                self._end_unfit()
            await asyncio.sleep(self._look_every_s)

    def _keep_warm(self) -> None:
        if self._watcher is None and self._watch.looks:
            self._watcher = asyncio.get_running_loop().create_task(self._look())
        if self._warmer is None and self.profile.pool.min > 0:
            self._warmer = asyncio.get_running_loop().create_task(self._warm())

    async def _warm(self) -> None:
        """Hold `pool_size.min` connections open from the first call on, replacing those that were idle too long."""
        while True:
            if self.stats().size < self.profile.pool.min:
                # All at once: asyncpg lends the idle ones first, so asking for the missing ones opens too few.
                await self._open(self.profile.pool.min)
            await asyncio.sleep(self._warm_every_s)

    async def _open(self, count: int) -> None:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(count):
                if self._permits.locked():
                    return
                try:
                    await stack.enter_async_context(self.connection(Deadline.after(self.profile.limits.call_s)))
                except GatewayError as error:
                    logger.info("profile=%s could not be kept warm: %s", self.profile.name, error.message)
                    return

    async def close(self, *, grace_s: float = 3.0) -> None:
        """End all connections; statements that still run are given up after `grace_s`."""
        for task in (self._warmer, self._watcher):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        if self._cleaning:
            await asyncio.wait(self._cleaning, timeout=grace_s)
        if self._pool is not None:
            try:
                async with asyncio.timeout(grace_s):
                    await self._pool.close()
            except BROKEN:
                # A backend does not notice that its caller is gone while it computes.
                running = self._leases.backends()
                self._pool.terminate()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(grace_s):
                        await asyncio.gather(*(self._backends.end(backend) for backend in running))
        for task in self._cleaning:
            task.cancel()
        if self._cleaning:
            await asyncio.wait(self._cleaning)
        await self._backends.close()


class Pools:
    """The pools of all profiles, by name."""

    def __init__(
        self,
        *,
        environ: Mapping[str, str],
        tell: Notify,
        look_up: LookUp = look_up,
        idle_s: float = _IDLE_S,
        look_every_s: float = LOOK_EVERY_S,
        warm_every_s: float = _WARM_EVERY_S,
    ) -> None:
        self._make = partial(
            ProfilePool,
            environ=environ,
            tell=tell,
            look_up=look_up,
            idle_s=idle_s,
            look_every_s=look_every_s,
            warm_every_s=warm_every_s,
        )
        self._pools: dict[str, ProfilePool] = {}

    def of(self, profile: Profile) -> ProfilePool:
        """Return the profile's pool, made at its first call."""
        pool = self._pools.get(profile.name)
        if pool is None:
            pool = self._pools[profile.name] = self._make(profile)
        return pool

    def stats(self) -> dict[str, PoolStats]:
        """Return the numbers of the pools that exist."""
        return {name: pool.stats() for name, pool in self._pools.items()}

    async def close(self) -> None:
        """End all connections of all profiles, side by side."""
        await asyncio.gather(*(pool.close() for pool in self._pools.values()))
