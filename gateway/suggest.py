"""The nearest real names for a table, column or schema that does not exist."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Awaitable, Callable, Sequence
from difflib import get_close_matches
from typing import Final

import asyncpg
import orjson

from gateway.deadline import Deadline
from gateway.errors import GatewayError

_SUGGEST_S: Final = 1.0
# Whatever quotation marks the server's language uses.
_QUOTED: Final = re.compile(r"[\"'«„“‘»](.+?)[\"'«»“”’]")  # noqa: RUF001 - these marks are what it looks for
_TABLES_SQL: Final = """
SELECT json_agg(q.name)::text FROM (
  SELECT n.nspname || '.' || c.relname AS name
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r','p','v','m','f') AND NOT c.relispartition
    AND n.nspname NOT IN ('pg_toast', 'information_schema')
    AND (c.relname ILIKE '%' || $1 || '%' OR $1 ILIKE '%' || c.relname || '%'
      OR abs(length(c.relname) - length($1)) <= 3)
    AND (n.nspname <> 'pg_catalog' OR $1 LIKE 'pg\\_%')
    AND (cardinality($2::text[]) = 0 OR n.nspname = ANY($2::text[]))
  ORDER BY c.relname ILIKE '%' || $1 || '%' DESC, left(c.relname, 1) = left($1, 1) DESC LIMIT 2000) AS q"""
_COLUMNS_SQL: Final = """
SELECT json_agg(json_build_array(c.relname, a.attname))::text
FROM unnest($1::text[]) AS r(name) JOIN pg_class c ON c.oid = to_regclass(r.name)
JOIN pg_attribute a ON a.attrelid = c.oid WHERE a.attnum > 0 AND NOT a.attisdropped"""


def near(wanted: str, names: Sequence[str], *, most: int = 3) -> list[str]:
    """Return the names that a person may have meant, nearest first, without regard to case."""
    folded: dict[str, str] = {}
    for name in names:
        folded.setdefault(name.casefold(), name)
    return [folded[match] for match in get_close_matches(wanted.casefold(), folded, n=most, cutoff=0.6)]


def _bare(name: str) -> str:
    return name.rsplit(".", 1)[-1].strip('"')


async def near_tables(connection: asyncpg.Connection, wanted: str, *, schemas: Sequence[str] = ()) -> list[str]:
    """Return up to three real tables whose names are near `wanted`, as `schema.table`; only of `schemas` if given."""
    text = await connection.fetchval(_TABLES_SQL, _bare(wanted), list(schemas))
    names: list[str] = orjson.loads(text) if text else []
    by_bare: dict[str, str] = {}
    for name in names:
        by_bare.setdefault(_bare(name), name)
    return [by_bare[match] for match in near(_bare(wanted), list(by_bare))]


async def near_columns(connection: asyncpg.Connection, wanted: str, relations: Sequence[str]) -> list[str]:
    """Return up to three columns of `relations` whose names are near `wanted`, as `table.column`."""
    text = await connection.fetchval(_COLUMNS_SQL, list(relations))
    pairs: list[list[str]] = orjson.loads(text) if text else []
    columns = {column: f"{table}.{column}" for table, column in pairs}
    return [columns[match] for match in near(_bare(wanted), list(columns))]


def _quote(schema: str | None, name: str) -> str:
    parts = [schema, name] if schema else [name]
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)


async def with_near_names(
    error: GatewayError,
    connection: asyncpg.Connection,
    relations: Sequence[tuple[str | None, str]],
    *,
    begin: Callable[[], Awaitable[None]],
    deadline: Deadline,
    schemas: Sequence[str] = (),
) -> None:
    """Add the nearest names to the hint of `error` if it is about a name; silently nothing if that fails.

    begin: ends the failed transaction and opens a new one. schemas: when given, no table of another is named.

    Runs after the failed statement, in its connection, for a second at most.
    """
    quoted = _QUOTED.search(error.message)
    if error.sqlstate not in ("42P01", "42703") or quoted is None:
        return
    found: list[str] = []
    with contextlib.suppress(TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        async with deadline.scope(at_most=_SUGGEST_S):
            await begin()
            if error.sqlstate == "42P01":
                found = await near_tables(connection, quoted.group(1), schemas=schemas)
            else:
                names = [_quote(schema, name) for schema, name in relations]
                found = await near_columns(connection, quoted.group(1), names)
    if found:
        error.hint = f"Did you mean {' or '.join(found)}?"
