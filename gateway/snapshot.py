"""What a database says of its functions, fetched once per profile on its first connection."""

from __future__ import annotations

from typing import Final

import asyncpg
import orjson

from gateway.sql_functions import SNAPSHOT_SQL, FunctionCatalog

_SQL: Final = f"SELECT json_agg(row_to_json(s))::text FROM ({SNAPSHOT_SQL}) AS s"


async def function_catalog(connection: asyncpg.Connection) -> FunctionCatalog:
    """Return the functions and operators of the database that `connection` reads. Two round trips."""
    text = await connection.fetchval(_SQL)
    rows = orjson.loads(text)
    return FunctionCatalog.from_rows(rows)
