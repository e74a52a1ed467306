"""`describe_table`: everything about one table that helps to write the next query.

`_sql` is long because it is one statement: a round trip saved is worth more than a short function.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import asyncpg

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
)

_TEXT: Final = 2000
_LISTED: Final = 100


def _columns_of(key: str, relation: str) -> str:
    """Return SQL for the names of the columns whose numbers stand in the array `key`, in its order."""
    return (
        f"(SELECT json_agg(a.attname ORDER BY u.o) FROM unnest({key}) WITH ORDINALITY AS u(n, o) "
        f"JOIN pg_attribute a ON a.attrelid = {relation} AND a.attnum = u.n)"
    )


_ACTIONS: Final = (
    "CASE {0} WHEN 'r' THEN 'restrict' WHEN 'c' THEN 'cascade' WHEN 'n' THEN 'set null' WHEN 'd' THEN 'set default' END"
)


def _constraints(kind: str, value: str, extra: str = "") -> str:
    return (
        f"(SELECT json_agg({value} ORDER BY k.conname) FROM (SELECT * FROM pg_constraint k "
        f"WHERE k.conrelid = t.oid AND k.contype = '{kind}' {extra} ORDER BY k.conname LIMIT {_LISTED}) AS k)"
    )


def _sql(*, definitions: bool) -> str:
    """Return the one catalogue statement.

    definitions: with what only functions can write that take locks on tables, so that they wait for a migration.
    """

    def written(sql: str) -> str:
        return f"left({sql}, {_TEXT})" if definitions else "NULL::text"

    default = written("pg_get_expr(d.adbin, d.adrelid)")
    columns = f"""(SELECT json_agg(json_build_object(
      'name', a.attname, 'type', format_type(a.atttypid, a.atttypmod),
      'values', CASE WHEN b.typtype = 'e' THEN (SELECT json_agg(e.enumlabel ORDER BY e.enumsortorder) FROM (
        SELECT * FROM pg_enum e WHERE e.enumtypid = b.oid ORDER BY e.enumsortorder LIMIT {_LISTED}) AS e) END,
      'not_null', CASE WHEN a.attnotnull THEN true END,
      'default', CASE WHEN a.attgenerated = '' AND a.attidentity = '' THEN {default} END,
      'generated', CASE WHEN a.attgenerated <> '' THEN coalesce({default}, 'yes') END,
      'identity', CASE a.attidentity WHEN 'a' THEN 'always' WHEN 'd' THEN 'by default' END,
      'collation', (SELECT l.collname FROM pg_collation l, pg_type y WHERE l.oid = a.attcollation
        AND y.oid = a.atttypid AND a.attcollation <> y.typcollation),
      'comment', left(col_description(t.oid, a.attnum), {_TEXT})) ORDER BY a.attnum)
    FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum AND a.atthasdef
    LEFT JOIN pg_type y ON y.oid = a.atttypid LEFT JOIN pg_type x ON x.oid = y.typelem AND y.typcategory = 'A'
    LEFT JOIN pg_type b ON b.oid = coalesce(NULLIF(coalesce(x.typbasetype, y.typbasetype), 0), x.oid, y.oid)
    WHERE a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped)"""
    other = "(SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    key_out = f"""json_build_object('columns', {_columns_of("k.conkey", "k.conrelid")},
      'references', {other} WHERE c.oid = k.confrelid), 'referenced_columns', {_columns_of("k.confkey", "k.confrelid")},
      'on_delete', {_ACTIONS.format("k.confdeltype")}, 'on_update', {_ACTIONS.format("k.confupdtype")},
      'not_validated', CASE WHEN NOT k.convalidated THEN true END)"""
    key_in = f"""json_build_object('from', {other} WHERE c.oid = k.conrelid),
      'columns', {_columns_of("k.conkey", "k.conrelid")},
      'referenced_columns', {_columns_of("k.confkey", "k.confrelid")})"""
    return f"""{TARGET_CTE}
SELECT json_strip_nulls(json_build_object(
  'schema', t.nspname, 'table', t.relname, 'kind', {KIND_SQL.format("t")},
  'comment', left(obj_description(t.oid, 'pg_class'), {_TEXT}),
  'rows_estimate', CASE WHEN t.relkind IN ('r', 'm', 'f', 'p') AND t.reltuples >= 0 THEN round(t.reltuples)::bigint END,
  'columns', {columns},
  'primary_key', (SELECT {_columns_of("k.conkey", "k.conrelid")} FROM pg_constraint k
    WHERE k.conrelid = t.oid AND k.contype = 'p'),
  'unique', {_constraints("u", _columns_of("k.conkey", "k.conrelid"))},
  'checks', {_constraints("c", written("pg_get_constraintdef(k.oid)"))},
  'exclusions', {_constraints("x", written("pg_get_constraintdef(k.oid)"))},
  'foreign_keys', {_constraints("f", key_out, "AND k.conparentid = 0")},
  'referenced_by', (SELECT json_agg({key_in} ORDER BY k.conname) FROM (SELECT * FROM pg_constraint k
    WHERE k.confrelid = t.oid AND k.contype = 'f' AND k.conparentid = 0
      -- confrelid has no index, dependencies have one
      AND k.oid IN (SELECT d.objid FROM pg_depend d WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = t.oid
        AND d.classid = 'pg_constraint'::regclass) ORDER BY k.conname LIMIT {_LISTED}) AS k),
  'indexes', (SELECT json_agg(json_build_object('name', i.relname, 'definition', {written("pg_get_indexdef(i.oid)")},
      'bytes_estimate', NULLIF(i.relpages, 0)::bigint * current_setting('block_size')::bigint,
      'invalid', CASE WHEN NOT i.indisvalid THEN true END) ORDER BY i.relname)
    FROM (SELECT c.oid, c.relname, c.relpages, x.indisvalid FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid
      WHERE x.indrelid = t.oid ORDER BY c.relname LIMIT {_LISTED}) AS i),
  'partition_key', CASE WHEN t.relkind = 'p' THEN {written("pg_get_partkeydef(t.oid)")} END,
  'partitions', CASE WHEN t.relkind = 'p' THEN (SELECT json_agg(json_build_object('name', p.name,
      'bounds', {written("pg_get_expr(p.relpartbound, p.oid)")}) ORDER BY p.name)
    FROM (SELECT c.oid, n.nspname || '.' || c.relname AS name, c.relpartbound FROM pg_inherits h
      JOIN pg_class c ON c.oid = h.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE h.inhparent = t.oid ORDER BY c.relname LIMIT {_LISTED}) AS p) END,
  'partition_count', CASE WHEN t.relkind = 'p' THEN
    (SELECT count(*) FROM pg_inherits h WHERE h.inhparent = t.oid) END,
  'partition_of', (SELECT n.nspname || '.' || c.relname FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhparent
    JOIN pg_namespace n ON n.oid = c.relnamespace WHERE h.inhrelid = t.oid AND t.relispartition),
  'bounds', CASE WHEN t.relispartition THEN {written("pg_get_expr(t.relpartbound, t.oid)")} END,
  'definition', CASE WHEN t.relkind IN ('v', 'm') THEN {written("pg_get_viewdef(t.oid, true)")} END,
  'triggers', (SELECT json_agg(json_build_object('name', g.tgname,
      'definition', {written("pg_get_triggerdef(g.oid, true)")},
      'disabled', CASE WHEN g.tgenabled = 'D' THEN true END) ORDER BY g.tgname)
    FROM (SELECT * FROM pg_trigger g WHERE g.tgrelid = t.oid AND NOT g.tgisinternal
      ORDER BY g.tgname LIMIT {_LISTED}) AS g),
  'row_security', CASE WHEN t.relrowsecurity THEN CASE WHEN t.relforcerowsecurity THEN 'forced' ELSE 'enabled' END END,
  'policies', (SELECT json_agg(json_build_object('name', l.polname,
      'command', CASE l.polcmd WHEN 'r' THEN 'select' WHEN 'a' THEN 'insert' WHEN 'w' THEN 'update'
        WHEN 'd' THEN 'delete' ELSE 'all' END,
      'using', {written("pg_get_expr(l.polqual, l.polrelid)")},
      'restrictive', CASE WHEN NOT l.polpermissive THEN true END) ORDER BY l.polname)
    FROM pg_policy l WHERE l.polrelid = t.oid)))::text
FROM t, {IMPATIENT}"""


_WITH_DEFINITIONS: Final = _sql(definitions=True)
_WITHOUT_DEFINITIONS: Final = _sql(definitions=False)


def _fit(answer: Answer, page_bytes: int) -> None:
    """Leave out what is least useful until the answer fits, and say so."""
    if len(to_json(answer)) <= page_bytes:
        return
    for column in answer["columns"]:
        column.pop("comment", None)
        column.pop("values", None)
    answer["left_out"] = ["comments and values of columns"]
    for part in ("definition", "partitions", "triggers", "referenced_by", "policies"):
        if len(to_json(answer)) <= page_bytes:
            return
        if answer.pop(part, None) is not None:
            answer["left_out"].append(part)
    columns = answer["columns"]
    spare = page_bytes - (len(to_json(answer)) - len(to_json(columns))) - 200
    while columns and len(to_json(columns)) > spare:
        del columns[len(columns) * 7 // 8 :]
        answer["hint"] = f"The first {len(columns)} columns; SELECT attname FROM pg_attribute names the others."
    answer["left_out"].append("columns")


async def _describe(reading: Reading, arguments: Mapping[str, Any]) -> Answer:
    schemas, names = name_candidates(arguments["table_name"], arguments["schema"])
    note = None
    try:
        found = await reading.catalogue(_WITH_DEFINITIONS, schemas, names)
    except asyncpg.LockNotAvailableError:
        found = await reading.catalogue(_WITHOUT_DEFINITIONS, schemas, names)
        note = "Definitions are left out: a migration holds a lock on the table. Ask again later."
    if found is None:
        raise await no_such_table(reading, schemas, names)
    check_schema(reading.profile, found["schema"])
    found.setdefault("columns", [])
    answer = {"profile": reading.profile.name, **found}
    if note is not None:
        answer["hint"] = note
    _fit(answer, reading.profile.limits.page_kb * 1024)
    return answer


DESCRIBE_TABLE: Final = Tool(
    name="describe_table",
    title="Describe a table",
    description="Columns, keys, constraints, foreign keys in both directions, indexes, partitions, triggers, row "
    "security and the definition of one table or view. What is absent is left out; columns are nullable unless "
    "not_null.",
    arguments=(TABLE, SCHEMA),
    output={"table": {"type": "string"}, "columns": {"type": "array"}},
    work=_describe,
)
