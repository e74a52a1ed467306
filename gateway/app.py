"""The whole: profiles, pools and observers in one object, and the one path that every read takes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from gateway.breaker import Breaker
from gateway.calls import Call, nothing_came, say_what_was_waited_for
from gateway.config import Config
from gateway.deadline import Deadline, Stages
from gateway.dial_loop import LookUp, look_up
from gateway.errors import (
    GatewayError,
    InternalError,
    InvalidArguments,
    UnknownProfile,
)
from gateway.judging import Judging
from gateway.observe import CallRecord, Observer, Record, notify
from gateway.pg_errors import from_statement
from gateway.pools import Pools, PoolStats
from gateway.profiles import Profile
from gateway.progress import Tell
from gateway.reading import Reading
from gateway.retry import Retry
from gateway.sql_guard import Judged, judge

logger = logging.getLogger(__name__)

T = TypeVar("T")

# One dial may take so long, or a third of the call: a link that went silent meanwhile is dialled anew.
_DIAL_S: Final = 5.0
# Slower than this, a call that was tried again says so in its answer.
_NOTICED_S: Final = 1.0


class Gateway:
    """Everything that lives: `async with Gateway(config, environ=…) as gateway`. Creating never connects."""

    def __init__(
        self,
        config: Config,
        *,
        environ: Mapping[str, str],
        observers: Sequence[Observer] = (),
        guard: Callable[..., Judged] = judge,
        look_up: LookUp = look_up,
    ) -> None:
        """Make a gateway.

        guard: judges callers' statements; another one shows what the layers behind it stop alone. look_up: blocks, in
        one of the profile's own threads, until it has the addresses of a server's name.
        """
        self.config = config
        self._observers = tuple(observers)
        self._pools = Pools(environ=environ, tell=self._tell, look_up=look_up)
        self._judging = Judging(self._pools, guard=guard)
        self._breakers: dict[str, Breaker] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._judging.close()
        await self._pools.close()

    def _tell(self, record: Record) -> None:
        notify(self._observers, record)

    def pool_stats(self) -> dict[str, PoolStats]:
        """Return the numbers of the pools that exist, by profile."""
        return self._pools.stats()

    def resolve(self, name: str | None) -> Profile:
        """Return the profile of that name, or the active one.

        Raises UnknownProfile with the nearest names, InvalidArguments for several names at once.
        """
        profiles = self.config.profiles
        wanted = self.config.default if name is None else name.strip()
        if wanted in profiles:
            return profiles[wanted]
        if wanted == "*" or "," in wanted:
            raise InvalidArguments(
                f"profile = {wanted!r} names several profiles; this version reads one profile per call",
                hint=f"Call once for each of: {', '.join(profiles)}.",
            )
        near = get_close_matches(wanted, profiles, n=3)
        raise UnknownProfile(
            f"no profile named {wanted!r}",
            hint=f"Use one of: {', '.join([*near, *(n for n in profiles if n not in near)])}.",
        )

    async def read(
        self,
        tool: str,
        profile: str | None,
        work: Callable[[Reading], Awaitable[T]],
        *,
        query: str | None = None,
        tell: Tell | None = None,
    ) -> tuple[Profile, T]:
        """Run `work` with a connection of the profile, within its deadline, observed whatever happens.

        query: the caller's statement, judged before a connection is asked for. tell: is told what the call waits for.
        Every failure leaves as a GatewayError that names the profile.
        """
        started = time.monotonic()
        record = CallRecord(tool=tool, profile=profile or self.config.default)
        try:
            target = self.resolve(profile)
            record.profile = target.name
            if query is not None:
                await self._judging.prejudge(query, target)
            answer = await self._read(target, record, work, tell)
            record.outcome = "ok"
            if record.retries and isinstance(answer, dict) and time.monotonic() - started > _NOTICED_S:
                answer["retries"] = record.retries
        except asyncio.CancelledError:
            record.outcome = "cancelled"
            raise
        except GatewayError as error:
            error.profile = error.profile or record.profile
            record.outcome = error.code
            raise
        except Exception as error:
            # The caller learns that it is ours; what it was stands in the log.
            logger.exception("unexpected error in a call")
            raise from_statement(error, profile=record.profile) from error
        else:
            return target, answer
        finally:
            record.seconds = time.monotonic() - started
            self._tell(record)

    async def _read(
        self, profile: Profile, record: CallRecord, work: Callable[[Reading], Awaitable[T]], tell: Tell | None
    ) -> T:
        """Try within one deadline for as long as a lost connection may come back; tell the breaker how it went."""
        call = Call(profile, self._judging.state(profile), record, Deadline.after(profile.limits.call_s), Stages())
        breaker = self._breakers.setdefault(profile.name, Breaker(profile.name))
        is_probe = breaker.admit()
        if tell is not None:
            tell(call.waiting())
        settings = replace(profile.retry, attempts=1) if is_probe else profile.retry

        began = 0.0

        async def pause(seconds: float) -> None:
            # What the try itself took counts: after one that was silent for long the next is due at once.
            call.stages.enter("retry")
            await breaker.wait(max(0.0, seconds - (time.monotonic() - began)))

        retry = Retry(settings, call.deadline, unproven=not breaker.has_answered, sleep=pause)

        def again(error: GatewayError) -> None:
            record.retries = retry.retries
            call.lost(error, began=began)
            if tell is not None:
                tell(call.waiting(retry, error))
            logger.info("profile=%s tool=%s is tried again: %s", profile.name, record.tool, error.message)

        async def attempt() -> T:
            nonlocal began
            began = time.monotonic()
            return await self._attempt(call, retry, work, brief=is_probe)

        try:
            answer = await retry.run(attempt, before_retry=again)
        except GatewayError as error:
            say_what_was_waited_for(error, call.stages, retry)
            if error.repeat == "never" or call.stages.now == "statement":
                # The database was reached, or the call was refused before: nothing against the connection.
                breaker.released(is_probe=is_probe)
            else:
                breaker.failed(error, is_probe=is_probe)
                error.details["retry_after_s"] = breaker.retry_after_s()
            raise
        except BaseException:
            breaker.released(is_probe=is_probe)
            raise
        breaker.succeeded()
        return answer

    async def _attempt(self, call: Call, retry: Retry, work: Callable[[Reading], Awaitable[T]], *, brief: bool) -> T:
        profile, deadline, stages, record = call.profile, call.deadline, call.stages, call.record
        started = time.monotonic()
        try:
            dial_s = _DIAL_S if brief else max(_DIAL_S, profile.limits.call_s / 3)
            pool = self._pools.of(profile)
            async with pool.connection(deadline, dial_s=dial_s, stages=stages, holder=record.tool) as connection:
                record.waited_s += time.monotonic() - started
                reading = Reading(self._judging, profile, deadline, record, connection, call.state)
                reading.ended_by = time.monotonic() + profile.limits.statement_s
                try:
                    async with deadline.scope() as scope:
                        await call.rule_out_a_crash(connection, retry)
                        await self._judging.ready(profile, call.state, connection)
                        return await work(reading)
                except TimeoutError as error:
                    raise nothing_came(call, is_over=scope.expired(), ended_by=reading.ended_by) from error
        except GatewayError:
            raise
        except Exception as error:
            ours = from_statement(error, profile=profile.name)
            if isinstance(ours, InternalError):
                raise
            raise ours from error

    async def explain(self, query: str, profile: Profile, *, offline: bool) -> dict[str, Any]:
        """Return what the guard decides about a text and why; see `Judging.explain`."""
        return await self._judging.explain(query, profile, offline=offline)
