"""One statement on one connection: describe, run, and cut a page.

A caller's statement never stands beside another in its transaction; a warm one costs two round trips, one that is
new on its connection four. The transaction is ended by whoever owns the connection, after the answer. `select_page` is
long because its steps share the plan that each may have to make anew.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

import asyncpg
import orjson

from gateway.errors import TooLarge
from gateway.page_sql import PageColumn, page_sql
from gateway.pg_types import BUILTIN_TYPES, Family, TypeInfo, array_family
from gateway.results import ResultPage, TruncatedBy, to_json

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

_PLANS_KEPT: Final = 500
# A changed column type shows after this long; added, dropped and renamed columns show at once.
_PLAN_S: Final = 10.0
_TYPES_SQL: Final = """
SELECT t.oid::text, coalesce(e.typname, t.typname), (e.oid IS NOT NULL)::text, coalesce(e.typtype, t.typtype)::text
FROM pg_type t LEFT JOIN pg_type e ON e.oid = t.typelem AND t.typcategory = 'A'
WHERE t.oid = ANY($1::oid[])"""
# What stands around columns and rows: profile, counts, hint.
_ENVELOPE_BYTES: Final = 768
_SMALLEST_CELL: Final = 16
# {"$cut":"","$bytes":1000000}, and a comma.
_CUT_MARK_BYTES: Final = 34
_STALE: Final = ("0A000", "42")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much one page may hold: rows, bytes of one value, bytes of all rows together."""

    rows: int
    cell_bytes: int
    page_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    sql: str
    columns: tuple[PageColumn, ...]
    cell_bytes: int
    budget: int
    by_name: bool
    expires_at: float


@dataclass(slots=True)
class ProfileTypes:
    """What is known of a profile's types and statements: shared by all its connections, bounded."""

    clock: Callable[[], float] = time.monotonic
    types: dict[int, TypeInfo] = field(default_factory=dict)
    plans: OrderedDict[tuple[str, int, tuple[int, ...]], _Plan] = field(default_factory=OrderedDict)

    def plan(self, key: tuple[str, int, tuple[int, ...]]) -> _Plan | None:
        """Return the plan for `key` unless it is too old."""
        found = self.plans.get(key)
        if found is None or found.expires_at < self.clock():
            return None
        self.plans.move_to_end(key)
        return found

    def keep(self, key: tuple[str, int, tuple[int, ...]], plan: _Plan) -> None:
        """Remember `plan`, forgetting the least used beyond the bound."""
        self.plans[key] = plan
        if len(self.plans) > _PLANS_KEPT:
            self.plans.popitem(last=False)

    async def resolve(self, connection: Connection, oids: Sequence[int]) -> list[TypeInfo]:
        """Return the types of `oids`, asking the server once for those that no one has seen yet."""
        unknown = [oid for oid in oids if oid not in BUILTIN_TYPES and oid not in self.types]
        if unknown:
            for oid, name, is_array, kind in await connection.fetch(_TYPES_SQL, [str(oid) for oid in unknown]):
                family: Family = "text" if kind == "e" else "output"
                if is_array == "true":
                    # Elements of other types may have a cast to json that runs somebody's function.
                    family = array_family("text", name) if kind == "e" else "array_literal"
                    self.types[int(oid)] = TypeInfo(int(oid), f"{name}[]", family)
                else:
                    self.types[int(oid)] = TypeInfo(int(oid), name, family)
        return [BUILTIN_TYPES.get(oid) or self.types.get(oid) or TypeInfo(oid, f"oid {oid}", "output") for oid in oids]


def _describe_columns(page: Sequence[PageColumn]) -> list[dict[str, str]]:
    described = []
    for column in page:
        entry = {"name": column.name, "type": column.type.name}
        if column.type.family == "bytea":
            entry["encoding"] = "base64"
        described.append(entry)
    return described


def _too_wide(columns: int, page_bytes: int) -> TooLarge:
    return TooLarge(
        f"a row of {columns} columns does not fit into an answer of {page_bytes // 1024} kB",
        hint="Name the columns you need instead of asking for all.",
    )


def _row_budget(columns: list[dict[str, str]], page_bytes: int) -> int:
    """Return the bytes that are left for rows once the columns are written."""
    budget = page_bytes - len(to_json(columns)) - _ENVELOPE_BYTES
    if budget < 0:
        raise _too_wide(len(columns), page_bytes)
    return budget


async def _plan_for(
    connection: Connection,
    statement: str,
    *,
    known: ProfileTypes,
    cell_bytes: int,
    by_name: bool,
    keeps: bool,
    key: tuple[int, ...],
    page_bytes: int,
) -> _Plan:
    described = await connection.prepare(statement, name="")
    attributes = described.get_attributes()
    types = await known.resolve(connection, [attribute.type.oid for attribute in attributes])
    columns = tuple(
        PageColumn(name=attribute.name, type=kind) for attribute, kind in zip(attributes, types, strict=True)
    )
    names = {column.name for column in columns}
    by_name = by_name and 0 < len(names) == len(columns) and "" not in names
    budget = _row_budget(_describe_columns(columns), page_bytes)
    share = budget // max(1, len(columns)) - _CUT_MARK_BYTES
    cell = max(_SMALLEST_CELL, min(cell_bytes, share))
    sql = page_sql(
        statement,
        columns,
        first_param=len(described.get_parameters()) + 1,
        cell_bytes=cell,
        by_name=by_name,
        key=key,
    )
    expires_at = known.clock() + _PLAN_S if keeps or by_name else 0.0
    return _Plan(sql=sql, columns=columns, cell_bytes=cell, budget=budget, by_name=by_name, expires_at=expires_at)


def _truncated(seen: int, kept: int, wanted: int) -> TruncatedBy | None:
    if seen == kept:
        return None
    return "rows" if kept >= wanted else "bytes"


async def select_page(
    connection: Connection,
    statement: str,
    arguments: Sequence[Any],
    *,
    bounds: Bounds,
    known: ProfileTypes,
    reads_star: bool,
    begin: Callable[[], Any],
    key: tuple[int, ...] = (),
) -> ResultPage:
    """Run one judged SELECT in the transaction that is open and return its page.

    begin: ends what is open and begins anew, for a plan that the schema has outlived. key: see `page_sql`;
    the values come back as `page.next`.
    """
    cache_key = (statement, bounds.cell_bytes, key)
    plan = known.plan(cache_key)
    was_cached = plan is not None

    async def fresh(*, by_name: bool) -> _Plan:
        made = await _plan_for(
            connection,
            statement,
            known=known,
            cell_bytes=bounds.cell_bytes,
            by_name=by_name,
            keeps=not reads_star,
            key=key,
            page_bytes=bounds.page_bytes,
        )
        if made.expires_at:
            known.keep(cache_key, made)
        return made

    async def run(plan: _Plan) -> Any:
        return await connection.fetchrow(plan.sql, *arguments, str(bounds.rows), str(bounds.rows + 1), str(plan.budget))

    if plan is None:
        plan = await fresh(by_name=reads_star)
    try:
        row = await run(plan)
    except asyncpg.PostgresError as error:
        if not (was_cached or plan.by_name) or not (error.sqlstate or "").startswith(_STALE):
            raise
        # The schema changed under the plan; described anew, a statement that is wrong by now says so with the
        # caller's own positions. Or some column's type cannot be addressed by name, then numbers do.
        known.plans.pop(cache_key, None)
        await begin()
        plan = await fresh(by_name=reads_star and was_cached)
        row = await run(plan)
    if row[2] is not None and int(row[2]) > plan.budget:
        if plan.cell_bytes <= _SMALLEST_CELL:
            raise _too_wide(len(plan.columns), bounds.page_bytes)
        # Escapes made a single row larger than a page: the same with smaller cells.
        smaller = replace(bounds, cell_bytes=max(_SMALLEST_CELL, plan.cell_bytes // 8))
        return await select_page(
            connection,
            statement,
            arguments,
            bounds=smaller,
            known=known,
            reads_star=reads_star,
            begin=begin,
            key=key,
        )
    return _page(plan.columns, row, wanted=bounds.rows, has_key=bool(key))


def _page(columns: Sequence[PageColumn], row: Any, *, wanted: int, has_key: bool) -> ResultPage:
    seen, kept = int(row[0]), int(row[1])
    rows = (row[3] or "").encode()
    if rows and any(column.type.family in ("json", "jsonb") for column in columns):
        # PostgreSQL writes json with spaces; all numbers in it are such that a double keeps them.
        compact = orjson.dumps(orjson.loads(b"[" + rows + b"]"))[1:-1]
        # Where PostgreSQL writes 1e+15, orjson writes all the zeros.
        rows = min(rows, compact, key=len)
    described = _describe_columns(columns)
    page = ResultPage(columns=described, rows=rows, row_count=kept, truncated_by=_truncated(seen, kept, wanted))
    if has_key and page.truncated_by is not None and row[4] is not None:
        page.next = orjson.loads(row[4])
    return page


async def text_page(connection: Connection, statement: str, arguments: Sequence[Any], *, bounds: Bounds) -> ResultPage:
    """Run one judged EXPLAIN or SHOW, which cannot stand in a subquery, and return its page."""
    described = await connection.prepare(statement, name="")
    attributes = described.get_attributes()
    columns = [
        {"name": a.name, "type": BUILTIN_TYPES[a.type.oid].name if a.type.oid in BUILTIN_TYPES else a.type.name}
        for a in attributes
    ]
    budget = _row_budget(columns, bounds.page_bytes)
    rows: list[bytes] = []
    used = 0
    truncated: TruncatedBy | None = None
    async for record in described.cursor(*arguments, prefetch=bounds.rows + 1):
        cells = [_text_cell(value, column["type"], bounds) for value, column in zip(record, columns, strict=True)]
        row = to_json(cells)
        if len(rows) == bounds.rows:
            truncated = "rows"
            break
        if rows and used + len(row) + 1 > budget:
            truncated = "bytes"
            break
        used += len(row) + 1
        rows.append(row)
    return ResultPage(columns=columns, rows=b",".join(rows), row_count=len(rows), truncated_by=truncated)


def _text_cell(value: str | None, kind: str, bounds: Bounds) -> Any:
    if value is None:
        return None
    # A plan is one value, and half a plan is of little use: it may fill the page.
    limit = bounds.page_bytes // 2
    data = value.encode()
    if len(data) > limit:
        return {"$cut": data[:limit].decode(errors="ignore"), "$bytes": len(data)}
    return orjson.Fragment(orjson.dumps(orjson.loads(data))) if kind == "json" else value
