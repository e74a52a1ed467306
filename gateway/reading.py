"""One call's hold on a profile: what a tool reads through."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from gateway.connect import GatewayConnection
from gateway.deadline import Deadline
from gateway.errors import InvalidArguments
from gateway.judging import Judging, ProfileState
from gateway.observe import CallRecord
from gateway.pg_errors import from_statement
from gateway.policy import check_rows
from gateway.profiles import Profile
from gateway.query import Bounds, select_page, text_page
from gateway.results import ResultPage
from gateway.session import begin_read_only
from gateway.suggest import with_near_names

# So much before its caller's time is up the server ends a statement: its word that it took too long is still heard.
_LAST_WORD_S: Final = 0.5


@dataclass(slots=True)
class Reading:
    """A connection of the profile for the time of one try, and what is known of its database."""

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
