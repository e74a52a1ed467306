"""`search_tables`: tables and columns by name or comment, the best match first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gateway.errors import NotFound
from gateway.policy import check_schema
from gateway.reading import Reading
from gateway.tools.base import KIND_SQL, TABLE_OUTPUT, Answer, Argument, Tool, fit_rows

_TERM_CHARS: Final = 200
_COMMENT: Final = 200


def _rank(name: str) -> str:
    """Return SQL for how well a name matches: the name itself, its beginning, a word of it, any part."""
    return (
        f"CASE WHEN lower({name}) = lower($1) THEN 0 WHEN lower({name}) LIKE p.starts THEN 1 "
        f"WHEN lower({name}) LIKE p.word THEN 2 ELSE 3 END"
    )


# Tables before columns before comments at equal quality; at most `limit` + 1 rows leave the database.
_SQL: Final = f"""
WITH p AS (SELECT e || '%' AS starts, '%\\_' || e || '%' AS word, '%' || e || '%' AS anywhere
  FROM (SELECT replace(replace(replace(lower($1), '\\', '\\\\'), '%', '\\%'), '_', '\\_') AS e) AS x),
r AS MATERIALIZED (
  SELECT c.oid, n.nspname, c.relname, c.relkind FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition
    AND CASE WHEN $2 = '' THEN n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
      AND (cardinality($4::text[]) = 0 OR n.nspname = ANY($4::text[])) ELSE n.nspname = $2 END),
found AS (
  SELECT {_rank("r.relname")} * 10 AS score, r.*, NULL::name AS attname, NULL::text AS comment
  FROM r, p WHERE lower(r.relname) LIKE p.anywhere
  UNION ALL
  SELECT {_rank("a.attname")} * 10 + 5, r.*, a.attname, NULL
  FROM r JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped, p
  WHERE lower(a.attname) LIKE p.anywhere
  UNION ALL
  SELECT 40 + (d.objsubid > 0)::int * 5, r.*,
    (SELECT a.attname FROM pg_attribute a WHERE a.attrelid = d.objoid AND a.attnum = d.objsubid AND d.objsubid > 0),
    d.description
  FROM pg_description d JOIN r ON r.oid = d.objoid, p
  WHERE d.classoid = 'pg_class'::regclass AND lower(d.description) LIKE p.anywhere),
best AS (
  SELECT DISTINCT ON (oid, attname) * FROM found ORDER BY oid, attname, score)
SELECT json_build_object('known', $2 = '' OR EXISTS (SELECT FROM pg_namespace WHERE nspname = $2),
  'rows', (SELECT json_agg(json_build_array(b.nspname, b.relname, {KIND_SQL.format("b")}, b.attname,
      left(coalesce(b.comment, CASE WHEN b.attname IS NULL THEN obj_description(b.oid, 'pg_class') END), {_COMMENT}))
      ORDER BY b.score, length(b.relname), b.nspname, b.relname, b.attname)
    FROM (SELECT * FROM best ORDER BY score, length(relname), nspname, relname, attname LIMIT $3::int) AS b))::text"""

_ALWAYS: Final = ("schema", "table", "kind")
_COLUMNS: Final = [
    {"name": "schema", "type": "name"},
    {"name": "table", "type": "name"},
    {"name": "kind", "type": "text"},
    {"name": "column", "type": "name"},
    {"name": "comment", "type": "text"},
]


async def _search(reading: Reading, arguments: Mapping[str, Any]) -> Answer:
    schema, limit = arguments["schema"] or "", arguments["limit"]
    if schema:
        check_schema(reading.profile, schema)
    found = await reading.catalogue(_SQL, arguments["search_term"], schema, limit + 1, list(reading.profile.schemas))
    if not found["known"]:
        raise NotFound(f"no schema {schema!r}", hint="Leave schema out to search all of them.")
    rows = found["rows"] or []
    truncated = len(rows) > limit
    rows = rows[:limit]
    kept = [i for i, c in enumerate(_COLUMNS) if c["name"] in _ALWAYS or any(row[i] is not None for row in rows)]
    answer: Answer = {
        "profile": reading.profile.name,
        "columns": [_COLUMNS[i] for i in kept],
        "rows": [[row[i] for i in kept] for row in rows],
        "row_count": len(rows),
        "truncated": truncated,
    }
    if fit_rows(answer, reading.profile.limits.page_kb * 1024):
        truncated = answer["truncated"] = True
    if truncated:
        answer["hint"] = "More matches exist: search for a longer term, name a schema, or raise limit."
    elif not rows:
        answer["hint"] = "No table, column or comment holds this text; try a shorter part of the word, or list_tables."
    reading.record.rows, reading.record.truncated = answer["row_count"], truncated
    return answer


SEARCH_TABLES: Final = Tool(
    name="search_tables",
    title="Search tables",
    description="Tables and columns whose name or comment holds a text, the best match first. column is null where the "
    "table itself matches.",
    arguments=(
        Argument(name="search_term", description="Part of a name or comment.", max_chars=_TERM_CHARS),
        Argument(name="schema", description="Schema; left out: all user schemas.", default=None, max_chars=300),
        Argument(name="limit", description="Most matches.", type="integer", default=50, least=1, most=200),
    ),
    output=TABLE_OUTPUT,
    work=_search,
)
