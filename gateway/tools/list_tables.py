"""`list_tables`: what a schema holds, folded, bounded, without touching a table."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from gateway.errors import NotFound
from gateway.policy import check_schema
from gateway.reading import Reading
from gateway.suggest import near
from gateway.tools.base import KIND_SQL, SCHEMA, TABLE_OUTPUT, Answer, Argument, Tool, fit_rows

_COUNTS_S: Final = 30.0
_KINDS: Final = KIND_SQL.format("c")
# The page is chosen by the index on names before anything is computed for it. Counting a large schema reads the whole
# of pg_class, so that is done only when the page does not hold everything and $4 asks for it.
_SQL: Final = f"""
WITH s AS (SELECT oid FROM pg_namespace WHERE nspname = $1),
kinds AS (
  SELECT {_KINDS} AS kind, count(*) AS n FROM pg_class c
  WHERE c.relnamespace = (SELECT oid FROM s) AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition
  GROUP BY 1),
page AS (
  SELECT c.oid, c.relname, c.relkind, c.reltuples, c.relpages FROM pg_class c
  WHERE c.relnamespace = (SELECT oid FROM s) AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition
  ORDER BY c.relname LIMIT $2::int + 1 OFFSET $3::int),
whole AS (SELECT $3::int = 0 AND count(*) <= $2::int AS yes FROM page),
shown AS (SELECT * FROM page ORDER BY relname LIMIT $2::int),
rows AS (
  SELECT c.relname, json_build_array(c.relname, {_KINDS},
    CASE WHEN c.relkind = 'p' THEN p.tuples WHEN c.relkind = 'v' OR c.reltuples < 0 THEN NULL
      ELSE round(c.reltuples)::bigint END,
    CASE WHEN c.relkind = 'p' THEN p.pages WHEN c.relkind IN ('r', 'm') THEN c.relpages END
      * current_setting('block_size')::bigint,
    p.n, left(obj_description(c.oid, 'pg_class'), 200)) AS row
  FROM shown c LEFT JOIN LATERAL (
    WITH RECURSIVE tree AS (
      SELECT i.inhrelid AS oid FROM pg_inherits i WHERE i.inhparent = c.oid
      UNION ALL SELECT i.inhrelid FROM pg_inherits i JOIN tree ON i.inhparent = tree.oid)
    SELECT count(*) FILTER (WHERE l.relkind <> 'p') AS n, sum(l.relpages)::bigint AS pages,
      sum(round(l.reltuples)::bigint) FILTER (WHERE l.reltuples >= 0 AND l.relkind <> 'p')::bigint AS tuples
    FROM tree JOIN pg_class l ON l.oid = tree.oid) AS p ON c.relkind = 'p')
SELECT json_build_object(
  'known', EXISTS (SELECT FROM s),
  'counts', CASE WHEN (SELECT yes FROM whole) THEN
      (SELECT json_object_agg(kind, n ORDER BY kind)
       FROM (SELECT {_KINDS} AS kind, count(*) AS n FROM page c GROUP BY 1) AS x)
    WHEN $4::bool THEN (SELECT json_object_agg(kind, n ORDER BY kind) FROM kinds) END,
  'rows', (SELECT json_agg(row ORDER BY relname) FROM rows),
  'more', (SELECT count(*) > $2::int FROM page),
  'schemas', CASE WHEN NOT EXISTS (SELECT FROM s) THEN (SELECT json_agg(nspname ORDER BY nspname) FROM (
    SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_(toast|temp)' ORDER BY nspname LIMIT 200) AS n) END)::text"""

_ALWAYS: Final = ("table", "kind")
_COLUMNS: Final = [
    {"name": "table", "type": "name"},
    {"name": "kind", "type": "text"},
    {"name": "rows_estimate", "type": "int8"},
    {"name": "bytes_estimate", "type": "int8"},
    {"name": "partitions", "type": "int8"},
    {"name": "comment", "type": "text"},
]


async def _list(reading: Reading, arguments: Mapping[str, Any]) -> Answer:
    schema, limit, offset = arguments["schema"], arguments["limit"], arguments["offset"]
    profile = reading.profile
    check_schema(profile, schema)
    known = reading.state.counts.get(schema)
    is_known = known is not None and time.monotonic() - known[0] < _COUNTS_S
    found = await reading.catalogue(_SQL, schema, limit, offset, not is_known)
    if not found["known"]:
        schemas = [name for name in found["schemas"] or [] if not profile.schemas or name in profile.schemas]
        close = near(schema, schemas)
        shown = [*close, *(name for name in schemas if name not in close)][:20]
        raise NotFound(f"no schema {schema!r}", hint=f"Schemas that exist: {', '.join(shown)}.")
    rows = found["rows"] or []
    # Columns that say nothing on this page cost a model tokens in every row.
    kept = [
        i for i, column in enumerate(_COLUMNS) if column["name"] in _ALWAYS or any(row[i] is not None for row in rows)
    ]
    if found["counts"] is not None or known is None:
        known = (time.monotonic(), found["counts"] or {})
        reading.state.counts[schema] = known
    counted_at, counts = known
    answer: Answer = {
        "profile": profile.name,
        "schema": schema,
        "counts": counts,
        "columns": [_COLUMNS[i] for i in kept],
        "rows": [[row[i] for i in kept] for row in rows],
        "row_count": len(rows),
        "truncated": found["more"],
    }
    if fit_rows(answer, profile.limits.page_kb * 1024):
        answer["truncated"] = True
    age_s = time.monotonic() - counted_at
    if age_s > 1:
        answer["counts_age_s"] = round(age_s)
    if answer["truncated"]:
        answer["next_offset"] = offset + answer["row_count"]
        # Counts may be older than the page.
        left = max(1, sum(counts.values()) - answer["next_offset"])
        answer["hint"] = f"{left} more: call again with offset {answer['next_offset']}, or use search_tables."
    reading.record.rows, reading.record.truncated = answer["row_count"], answer["truncated"]
    return answer


LIST_TABLES: Final = Tool(
    name="list_tables",
    title="List tables",
    description="Tables, views, materialized views and foreign tables of one schema, by name, with estimated rows and "
    "sizes. Partitions are folded into their parent.",
    arguments=(
        SCHEMA,
        Argument(name="limit", description="Tables per page.", type="integer", default=200, least=1, most=1000),
        Argument(name="offset", description="Tables to skip.", type="integer", default=0, least=0, most=2**31 - 1),
    ),
    output={"counts": {"type": "object"}, **TABLE_OUTPUT},
    work=_list,
)
