"""The whole: profiles, pools and observers in one object, and the one path that every read takes."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import orjson

from gateway.breaker import Breaker
from gateway.config import Config
from gateway.connect import GatewayConnection
from gateway.deadline import Deadline, Stages
from gateway.dial_loop import LookUp, look_up
from gateway.errors import (
    CallTimeout,
    GatewayError,
    InternalError,
    InvalidArguments,
    Unavailable,
    UnknownProfile,
)
from gateway.judging import Judging, ProfileState
from gateway.observe import CallRecord, Observer, Record, notify
from gateway.pg_errors import from_statement
from gateway.policy import check_rows
from gateway.pools import Pools, PoolStats
from gateway.profiles import Profile
from gateway.progress import Tell, Waiting
from gateway.query import Bounds, select_page, text_page
from gateway.results import ResultPage
from gateway.retry import Retry
from gateway.session import begin_read_only
from gateway.sql_guard import Judged, judge
from gateway.suggest import with_near_names

logger = logging.getLogger(__name__)

T = TypeVar("T")

# One dial may take so long, or a third of the call: a link that went silent meanwhile is dialled anew.
_DIAL_S: Final = 5.0
# Slower than this, a call that was tried again says so in its answer.
_NOTICED_S: Final = 1.0
_LAST_WORD_S: Final = 0.5
_SILENT_HINT: Final = (
    "The server has not even said that it took too long: it, or the network, is slow or silent. Try again; "
    "`pg-gateway check` tries each step."
)


@dataclass(slots=True)
class Reading:
    """One call's hold on a profile: what a tool reads through."""

    judging: Judging
    profile: Profile
    deadline: Deadline
    record: CallRecord
    connection: GatewayConnection
    state: ProfileState
    # When the server will have ended the statement by itself.
    ended_by: float = math.inf

    async def catalogue(self, sql: str, *arguments: Any) -> Any:
        """Return what one of our own statements answers, parsed from JSON. One round trip when warm."""
        is_shadowed = self.state.snapshot is not None and self.state.snapshot.shadowed_path is not None
        if is_shadowed or self.profile.is_pooled:
            await self.begin()
        else:
            self.ended_by = time.monotonic() + self.profile.limits.statement_s
        text = await self.connection.fetchval(sql, *arguments)
        if text is None:
            return None
        self.record.answer_bytes = len(text)
        return orjson.loads(text)

    async def begin(self, *, at_most_s: float | None = None) -> None:
        """Open the read-only transaction for the statement to come, of `at_most_s`; ends one that is open."""
        snapshot, left_s = self.state.snapshot, self.deadline.left()
        # A little less than the caller has: the server's word that it took too long is still heard.
        left_s -= min(_LAST_WORD_S, left_s / 10)
        statement_s = min(left_s, self.profile.limits.statement_s, at_most_s or left_s)
        self.ended_by = time.monotonic() + statement_s
        await begin_read_only(
            self.connection,
            self.profile,
            statement_s=statement_s,
            search_path=None if snapshot is None else snapshot.shadowed_path,
        )

    def bounds(self, rows: int) -> Bounds:
        """Return the bounds of a page of `rows` rows at most."""
        limits = self.profile.limits
        return Bounds(rows=min(rows, limits.rows), cell_bytes=limits.cell_kb * 1024, page_bytes=limits.page_kb * 1024)

    async def select(
        self,
        statement: str,
        arguments: Sequence[Any],
        *,
        rows: int,
        reads_star: bool = False,
        key: tuple[int, ...] = (),
    ) -> ResultPage:
        """Return a page of a SELECT that is known to be one."""
        await self.begin()
        page = await select_page(
            self.connection,
            statement,
            arguments,
            bounds=self.bounds(rows),
            known=self.state.types,
            reads_star=reads_star,
            begin=self.begin,
            key=key,
        )
        return self._noted(page)

    def _noted(self, page: ResultPage) -> ResultPage:
        """Write in the call's record what the page holds."""
        self.record.rows, self.record.truncated = page.row_count, page.truncated_by is not None
        self.record.answer_bytes = len(page.rows)
        return page

    async def caller_statement(self, query: str, arguments: Sequence[Any], *, rows: int) -> ResultPage:
        """Judge a caller's statement and return its page."""
        check_rows(self.profile, rows)
        judged = await self.judging.judge(query, self.profile, self.connection)
        if judged.param_count > len(arguments):
            raise InvalidArguments(
                f"the query uses ${judged.param_count} but `params` has {len(arguments)} values",
                hint="Give `params` one value for each of $1, $2, …",
            )
        try:
            if judged.kind == "select":
                return await self.select(judged.sql, arguments, rows=rows, reads_star=judged.reads_star)
            await self.begin()
            return self._noted(await text_page(self.connection, judged.sql, arguments, bounds=self.bounds(rows)))
        except Exception as error:
            ours = from_statement(error, profile=self.profile.name, offset=judged.offset)
            await with_near_names(
                ours,
                self.connection,
                judged.relations,
                begin=self.begin,
                deadline=self.deadline,
                schemas=self.profile.schemas,
            )
            raise ours from error


@dataclass(frozen=True, slots=True)
class _Call:
    """What all tries of one call share."""

    profile: Profile
    state: ProfileState
    record: CallRecord
    deadline: Deadline
    stages: Stages

    def waiting(self, retry: Retry | None = None, error: GatewayError | None = None) -> Waiting:
        """Return where the call stands, for a caller who asked; `retry` is about to try again because of `error`."""
        now = Waiting(profile=self.profile.name, deadline=self.deadline, stages=self.stages)
        if retry is None or error is None:
            return now
        until = Deadline.after(retry.time_left(error))
        return replace(now, retries=retry.retries, why=error.message, tried_until=until)


def _say_what_was_waited_for(error: GatewayError, stages: Stages, retry: Retry) -> None:
    """Add to an error that came from waiting what was waited for at last, how long, and how often it was tried."""
    if error.code not in ("timeout", "unavailable", "busy"):
        return
    stages.enter(stages.now)
    error.details = {"waited_for": stages.now, "waited_s": round(stages.spent[stages.now], 1), **error.details}
    if retry.retries:
        error.message += f" (tried {retry.retries + 1} times in {sum(stages.spent.values()):.1f} s)"


def _nothing_came(call: _Call, *, is_over: bool, ended_by: float) -> GatewayError:
    """Return the error of a statement whose answer did not come.

    is_over: the call's time is up; else the driver has given the connection up, and there is time for another. A
    server ends by itself, and says so, what runs for longer than it may: when it has not, the query is not to blame.
    """
    name = call.profile.name
    if not is_over:
        return Unavailable("nothing came back from the database", hint=_SILENT_HINT, profile=name, repeat="always")
    is_silent = time.monotonic() >= ended_by
    return CallTimeout(
        f"the database did not answer within {call.deadline.budget_s:g} s: {call.stages.told()}",
        hint=_SILENT_HINT if is_silent else "The database or the network is slow: try again, or ask for less.",
        profile=name,
    )


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
        call = _Call(profile, self._judging.state(profile), record, Deadline.after(profile.limits.call_s), Stages())
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
            if tell is not None:
                tell(call.waiting(retry, error))
            logger.info("profile=%s tool=%s is tried again: %s", profile.name, record.tool, error.message)

        async def attempt() -> T:
            nonlocal began
            began = time.monotonic()
            return await self._attempt(call, work, brief=is_probe)

        try:
            answer = await retry.run(attempt, before_retry=again)
        except GatewayError as error:
            _say_what_was_waited_for(error, call.stages, retry)
            if error.repeat == "never" or call.stages.now == "statement":
                # The database was reached, or the call was refused before: nothing against the connection.
                breaker.released(is_probe=is_probe)
            else:
                breaker.failed(error, is_probe=is_probe)
            raise
        except BaseException:
            breaker.released(is_probe=is_probe)
            raise
        breaker.succeeded()
        return answer

    async def _attempt(self, call: _Call, work: Callable[[Reading], Awaitable[T]], *, brief: bool) -> T:
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
                        await self._judging.ready(profile, call.state, connection)
                        return await work(reading)
                except TimeoutError as error:
                    raise _nothing_came(call, is_over=scope.expired(), ended_by=reading.ended_by) from error
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
