"""`get_table_stats`: how large a table is, how it is used, and what its columns hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import asyncpg

from gateway.errors import Unavailable
from gateway.pg_errors import from_statement
from gateway.policy import check_schema
from gateway.reading import Reading
from gateway.results import to_json
from gateway.tools.base import (
    IMPATIENT,
    KIND_SQL,
    SCHEMA,
    TABLE,
    TARGET_CTE,
    Answer,
    Tool,
    name_candidates,
    no_such_table,
    quoted,
)

# A table of this many pages (8 MB) is counted in well under the budget.
_COUNTED_BYTES: Final = 8 * 1024 * 1024
_COUNT_S: Final = 2.0
_COLUMNS: Final = 200
# What may still come after the lists.
_HINT_BYTES: Final = 256
_ISO: Final = "to_char({0} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')"


def _sql(*, sizes: bool) -> str:
    """Return the catalogue statement; true sizes take a lock, estimates do not."""
    tree = """tree AS (
  SELECT t.oid, t.relpages, t.reltuples, t.relkind, t.reltoastrelid FROM t
  UNION ALL SELECT c.oid, c.relpages, c.reltuples, c.relkind, c.reltoastrelid FROM tree
    JOIN pg_inherits h ON h.inhparent = tree.oid JOIN pg_class c ON c.oid = h.inhrelid WHERE tree.relkind = 'p'),
leaves AS (SELECT * FROM tree WHERE relkind IN ('r', 'm'))"""
    if sizes:
        size = """(SELECT json_build_object('heap', sum(pg_relation_size(oid)), 'indexes', sum(pg_indexes_size(oid)),
      'toast', sum(CASE WHEN reltoastrelid <> 0 THEN pg_total_relation_size(reltoastrelid) ELSE 0 END),
      'total', sum(pg_total_relation_size(oid))) FROM leaves HAVING count(*) > 0)"""
    else:
        size = """(SELECT json_build_object('heap', sum(relpages::bigint) * current_setting('block_size')::bigint,
      'is_estimate', true) FROM leaves HAVING count(*) > 0)"""
    used = "sum(pg_stat_get_{0}(oid)) AS {0}"
    last = "max(greatest(pg_stat_get_last_{0}_time(oid), pg_stat_get_last_auto{0}_time(oid))) AS {0}"
    return f"""{TARGET_CTE.replace("WITH t", "WITH RECURSIVE t")}, {tree},
used AS (SELECT {used.format("dead_tuples")}, {used.format("numscans")}, {used.format("tuples_inserted")},
    {used.format("tuples_updated")}, {used.format("tuples_deleted")}, {last.format("vacuum")}, {last.format("analyze")},
    (SELECT sum(pg_stat_get_numscans(i.indexrelid)) FROM leaves l JOIN pg_index i ON i.indrelid = l.oid) AS index_scans
  FROM leaves),
types AS (SELECT format_type(a.atttypid, NULL) AS type, count(*) AS n FROM t JOIN pg_attribute a ON a.attrelid = t.oid
  WHERE a.attnum > 0 AND NOT a.attisdropped GROUP BY 1)
SELECT json_strip_nulls(json_build_object(
  'schema', t.nspname, 'table', t.relname, 'kind', {KIND_SQL.format("t")},
  'estimate', (SELECT round(sum(reltuples) FILTER (WHERE reltuples >= 0))::bigint FROM leaves
    HAVING count(*) = count(*) FILTER (WHERE reltuples >= 0)),
  'bytes', {size},
  'partitions', CASE WHEN t.relkind = 'p' THEN (SELECT count(*) FROM leaves) END,
  'dead_rows', NULLIF(used.dead_tuples, 0),
  'last_vacuum', {_ISO.format("used.vacuum")}, 'last_analyze', {_ISO.format("used.analyze")},
  'scans', CASE WHEN used.numscans IS NOT NULL THEN
    json_build_object('sequential', used.numscans, 'index', coalesce(used.index_scans, 0)) END,
  'changes', CASE WHEN used.tuples_inserted + used.tuples_updated + used.tuples_deleted > 0 THEN json_build_object(
    'inserted', used.tuples_inserted, 'updated', used.tuples_updated, 'deleted', used.tuples_deleted) END,
  'column_types', (SELECT json_object_agg(type, n ORDER BY n DESC, type) FROM types),
  'column_stats', (SELECT json_agg(json_build_object('name', p.attname,
      'null_fraction', NULLIF(round(p.null_frac::numeric, 4), 0),
      'distinct', CASE WHEN p.n_distinct > 0 THEN p.n_distinct::bigint END,
      'distinct_fraction', CASE WHEN p.n_distinct < 0 THEN round(-p.n_distinct::numeric, 4) END,
      'average_bytes', p.avg_width)) FROM (SELECT s.attname, max(s.null_frac) AS null_frac,
        (array_agg(s.n_distinct ORDER BY s.inherited DESC))[1] AS n_distinct, max(s.avg_width) AS avg_width
      FROM pg_stats s JOIN pg_attribute a ON a.attrelid = t.oid AND a.attname = s.attname
      WHERE s.schemaname = t.nspname AND s.tablename = t.relname GROUP BY s.attname, a.attnum
      ORDER BY a.attnum LIMIT {_COLUMNS}) AS p),
  'indexes', (SELECT json_agg(json_build_object('name', i.relname, 'scans', i.scans, 'rows_read', NULLIF(i.rows, 0))
      ORDER BY i.scans DESC, i.relname)
    FROM (SELECT c.relname, pg_stat_get_numscans(c.oid) AS scans, pg_stat_get_tuples_returned(c.oid) AS rows
      FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid WHERE x.indrelid = t.oid LIMIT 100) AS i)))::text
FROM t CROSS JOIN used, {IMPATIENT}"""


_WITH_SIZES: Final = _sql(sizes=True)
_WITHOUT_SIZES: Final = _sql(sizes=False)


async def _count(reading: Reading, found: Mapping[str, Any]) -> tuple[int | None, str]:
    """Return the exact number of rows, or None and the reason: too slow, locked, not permitted or failing."""
    await reading.begin(at_most_s=_COUNT_S)
    try:
        text = await reading.connection.fetchval(f"SELECT count(*) FROM {quoted(found['schema'], found['table'])}")
    except asyncpg.QueryCanceledError:
        return None, "counting takes too long"
    except asyncpg.LockNotAvailableError:
        return None, "a migration holds a lock on a table"
    except asyncpg.InsufficientPrivilegeError:
        return None, "the gateway's role may not read it"
    except asyncpg.PostgresError as error:
        if isinstance(from_statement(error, profile=reading.profile.name), Unavailable):
            raise
        return None, f"counting fails: {error}"
    return int(text), ""


def _fit(answer: Answer, page_bytes: int) -> None:
    """Shorten the lists until the answer fits, and say so."""
    for part in ("indexes", "column_stats", "column_types"):
        while answer.get(part) and len(to_json(answer)) > page_bytes - _HINT_BYTES:
            listed = answer[part]
            keep = len(listed) // 2
            answer[part] = dict(list(listed.items())[:keep]) if isinstance(listed, dict) else listed[:keep]
            answer["left_out"] = sorted({*answer.get("left_out", ()), part})


async def _stats(reading: Reading, arguments: Mapping[str, Any]) -> Answer:
    schemas, names = name_candidates(arguments["table_name"], arguments["schema"])
    hint = None
    try:
        found = await reading.catalogue(_WITH_SIZES, schemas, names)
    except asyncpg.LockNotAvailableError:
        found = await reading.catalogue(_WITHOUT_SIZES, schemas, names)
        hint = "Sizes are estimates: a migration holds a lock on the table."
    if found is None:
        raise await no_such_table(reading, schemas, names)
    check_schema(reading.profile, found["schema"])
    estimate = found.pop("estimate", None)
    small = found.get("bytes", {}).get("heap", _COUNTED_BYTES + 1) <= _COUNTED_BYTES
    exact, reason = None, "a migration holds a lock on it"
    if hint is None and (small or estimate is None):
        exact, reason = await _count(reading, found)
    rows: Answer = {"schema": found.pop("schema"), "table": found.pop("table"), "kind": found.pop("kind")}
    if exact is not None:
        rows["rows"] = exact
    elif estimate is not None:
        rows["rows_estimate"] = estimate
    else:
        unknown = f"The number of rows is not known: {reason}."
        hint = f"{hint} {unknown}" if hint else unknown
    answer = {"profile": reading.profile.name, **rows, **found}
    if hint is not None:
        answer["hint"] = hint
    _fit(answer, reading.profile.limits.page_kb * 1024)
    return answer


GET_TABLE_STATS: Final = Tool(
    name="get_table_stats",
    title="Table statistics",
    description="Rows (exact for small tables, else rows_estimate), sizes in bytes, dead rows, last vacuum and "
    "analyze, scans, column types, null and distinct fractions of columns, and use of indexes.",
    arguments=(TABLE, SCHEMA),
    output={"table": {"type": "string"}, "rows": {"type": "integer"}, "bytes": {"type": "object"}},
    work=_stats,
)
