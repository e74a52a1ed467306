"""What a database says of itself on a profile's first connection: its functions, and where names are looked up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import asyncpg
import orjson

from gateway.sql_functions import SNAPSHOT_SQL, FunctionCatalog

_SQL: Final = f"""SELECT json_build_object('path', current_schemas(true),
  'functions', (SELECT json_agg(row_to_json(s)) FROM ({SNAPSHOT_SQL}) AS s))::text"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The functions and operators of a database, and the schemas that a bare name is looked up in, in order."""

    functions: FunctionCatalog
    search_path: tuple[str, ...]

    @property
    def shadowed_path(self) -> tuple[str, ...] | None:
        """The path with pg_catalog in front, where the role's own puts something else there; else None.

        A function of that schema could stand in for a built-in one, in our own statements, too.
        """
        schemas = [name for name in self.search_path if not name.startswith("pg_temp")]
        if not schemas or schemas[0] == "pg_catalog":
            return None
        return ("pg_catalog", *(name for name in schemas if name != "pg_catalog"))


async def take_snapshot(connection: asyncpg.Connection) -> Snapshot:
    """Return what the database of `connection` says. Two round trips, some hundred kilobytes."""
    found = orjson.loads(await connection.fetchval(_SQL))
    return Snapshot(
        functions=FunctionCatalog.from_rows(found["functions"] or ()), search_path=tuple(found["path"] or ())
    )
