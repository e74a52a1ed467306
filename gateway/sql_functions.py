"""What a database says about its functions and operators, as the SQL judge needs it.

Holds the statement that asks for it, the value that keeps the answer, and the packaged list of what PostgreSQL 15
to 18 bring along, for use before the first connection. Decides nothing.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# One row per schema, name and extension: the rule is about all overloads at once. An aggregate is as volatile as
# the worst of its support functions. Types count as functions because `int8(x)` and `x.int8` are casts. Nothing in
# SQL has the type internal, so what wants one cannot be called.
SNAPSHOT_SQL = """
WITH ext AS MATERIALIZED (
  SELECT d.classid, d.objid, e.extname::text AS extname
  FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
  WHERE d.deptype = 'e' AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass
), f AS (
  SELECT p.pronamespace AS ns, p.proname::text AS name, p.prokind::text AS kind,
    greatest(p.provolatile::text, s.volatility) AS volatility, p.prosecdef OR coalesce(s.definer, false) AS definer,
    x.extname,
    p.pronargs > 0 AND p.pronargs - p.pronargdefaults <= 1 AND t.typname <> 'internal' AS one,
    CASE WHEN p.pronargs = 0 OR p.pronargs - p.pronargdefaults > 1 THEN NULL WHEN t.typtype = 'c' THEN t.typname::text
      WHEN t.typtype = 'p' AND t.typname NOT IN ('internal', 'cstring') THEN '*' END AS takes_row
  FROM pg_catalog.pg_proc p
  LEFT JOIN ext x ON x.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND x.objid = p.oid
  LEFT JOIN pg_catalog.pg_type t ON t.oid = p.proargtypes[0]
  LEFT JOIN LATERAL (
    SELECT max(q.provolatile::text) AS volatility, bool_or(q.prosecdef) AS definer
    FROM pg_catalog.pg_aggregate a JOIN pg_catalog.pg_proc q ON q.oid IN (a.aggtransfn, a.aggfinalfn, a.aggcombinefn,
      a.aggserialfn, a.aggdeserialfn, a.aggmtransfn, a.aggminvtransfn, a.aggmfinalfn)
    WHERE p.prokind = 'a' AND a.aggfnoid = p.oid
  ) s ON true
  WHERE p.prokind <> 'p'
  UNION ALL
  SELECT t.typnamespace, t.typname::text, 't', 's', false, x.extname, true, NULL
  FROM pg_catalog.pg_type t
  LEFT JOIN ext x ON x.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND x.objid = t.oid
  WHERE t.typtype IN ('b', 'd', 'e', 'r', 'm') AND t.typcategory <> 'A'
)
SELECT n.nspname::text AS schema, f.name, min(f.kind) AS kind, max(f.volatility) AS volatility,
  bool_or(f.definer) AS security_definer, f.extname AS extension, bool_or(f.one) AS one_argument,
  array_remove(array_agg(DISTINCT f.takes_row), NULL) AS row_of, NULL::text AS calls
FROM f JOIN pg_catalog.pg_namespace n ON n.oid = f.ns
GROUP BY n.nspname, f.name, f.extname, f.kind = 't'
UNION ALL
SELECT n.nspname::text, o.oprname::text, 'o', p.provolatile::text, p.prosecdef, x.extname, false, '{}'::text[],
  pn.nspname || '.' || p.proname
FROM pg_catalog.pg_operator o JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
JOIN pg_catalog.pg_proc p ON p.oid = o.oprcode JOIN pg_catalog.pg_namespace pn ON pn.oid = p.pronamespace
LEFT JOIN ext x ON x.classid = 'pg_catalog.pg_operator'::pg_catalog.regclass AND x.objid = o.oid
"""

_PACKAGED = Path(__file__).with_name("builtin_functions.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionEntry:
    """All overloads of one name in one schema, or one operator; the worst of them counts.

    kind: f function, a aggregate, w window function, t type (a cast written as a call), o operator.
    volatility: i immutable, s stable, v volatile. one_argument: an overload can be called as `value.name`;
    row_of: the relations whose rows fit as that value, `*` any. calls: the function behind an operator,
    as `schema.name`.
    """

    schema: str
    name: str
    kind: str = "f"
    volatility: str = "v"
    security_definer: bool = False
    extension: str | None = None
    one_argument: bool = False
    row_of: Sequence[str] = ()
    calls: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionCatalog:
    """The functions and operators of one database, by name.

    complete: whether this came from the database itself, so that a name that is missing does not exist.
    relations: the catalogue relations of PostgreSQL. settings: all of its settings. calm, calm_operators: built-in
    names that nobody in any schema has given to something volatile or SECURITY DEFINER; most names in a query.
    """

    functions: Mapping[str, Sequence[FunctionEntry]]
    operators: Mapping[str, Sequence[FunctionEntry]]
    calm: Collection[str]
    calm_operators: Collection[str]
    relations: Collection[str]
    settings: Collection[str]
    complete: bool

    def lookup(self, schema: str | None, name: str, *, search_path: Collection[str] = ()) -> list[FunctionEntry]:
        """Return what `schema.name` may call; without a schema, what any overload that is visible may."""
        return _visible(self.functions.get(name, ()), schema, search_path)

    def lookup_operator(
        self, schema: str | None, name: str, *, search_path: Collection[str] = ()
    ) -> list[FunctionEntry]:
        """Return the operators of that name, as `lookup` does for functions."""
        return _visible(self.operators.get(name, ()), schema, search_path)

    @classmethod
    def packaged(cls) -> FunctionCatalog:
        """Return what PostgreSQL 15 to 18 bring along; reads one file of the package (2 ms)."""
        known = _read_packaged()
        one_argument = frozenset(known["one_argument"].split())
        entries = [
            FunctionEntry(
                schema="pg_catalog", name=name, kind=kind, volatility=volatility, one_argument=name in one_argument
            )
            for kind, volatility, names in (
                ("f", "i", known["immutable"]),
                ("f", "s", known["stable"]),
                ("f", "v", known["volatile"]),
                ("t", "s", known["types"]),
                ("o", "i", known["operators"]),
            )
            for name in names.split()
        ]
        return cls._of(entries, known, complete=False)

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]]) -> FunctionCatalog:
        """Return the catalog of the database that answered SNAPSHOT_SQL with these rows."""
        return cls._of((FunctionEntry(**dict(row)) for row in rows), _read_packaged(), complete=True)

    @classmethod
    def _of(cls, entries: Iterable[FunctionEntry], known: Mapping[str, str], *, complete: bool) -> FunctionCatalog:
        functions: dict[str, list[FunctionEntry]] = {}
        operators: dict[str, list[FunctionEntry]] = {}
        for entry in entries:
            (operators if entry.kind == "o" else functions).setdefault(entry.name, []).append(entry)
        return cls(
            functions=functions,
            operators=operators,
            calm=_calm(functions),
            calm_operators=_calm(operators),
            relations=frozenset(known["relations"].split()),
            settings=frozenset(known["settings"].split()),
            complete=complete,
        )


def _calm(named: Mapping[str, Sequence[FunctionEntry]]) -> frozenset[str]:
    return frozenset(
        name
        for name, entries in named.items()
        if any(entry.schema == "pg_catalog" for entry in entries)
        and not any(entry.volatility == "v" or entry.security_definer for entry in entries)
    )


def _visible(entries: Sequence[FunctionEntry], schema: str | None, path: Collection[str]) -> list[FunctionEntry]:
    if schema is not None:
        return [entry for entry in entries if entry.schema == schema]
    return [entry for entry in entries if entry.schema == "pg_catalog" or entry.schema in path]


def _read_packaged() -> dict[str, str]:
    known: dict[str, str] = json.loads(_PACKAGED.read_text(encoding="utf-8"))
    return known
