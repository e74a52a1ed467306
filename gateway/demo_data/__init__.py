"""A small web shop in three environments that differ as real ones do; the SQL lies beside this file.

`shop.sql` is common to all. Production has twenty times the rows and an index of its own, development a migration that
production has not seen, the local database a table that nobody else has. Every load gives the same rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Literal

import asyncpg

from gateway.embedded import EmbeddedServer

Environment = Literal["local", "azure_dev", "azure_prod"]
READER = "gateway_reader"

_LOAD_S = 120.0  # seconds are expected: the bound is for a machine that is busy


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoDatabase:
    """The name of an environment's database, and how many rows its largest tables get."""

    name: str
    customers: int
    orders: int
    events: int


DATABASES: Mapping[Environment, DemoDatabase] = MappingProxyType(
    {
        "local": DemoDatabase(name="shop", customers=100, orders=1_000, events=1_500),
        "azure_dev": DemoDatabase(name="dev_database", customers=100, orders=1_000, events=1_500),
        "azure_prod": DemoDatabase(name="production", customers=2_000, orders=20_000, events=30_000),
    }
)


async def load_demo(
    server: EmbeddedServer, environment: Environment, *, reader_password: str, database: str | None = None
) -> str:
    """Create the environment's database with its rows and the role `gateway_reader`; return the database's name.

    One server may hold several environments; the role is theirs in common and gets the last password.
    """
    demo = DATABASES[environment]
    name = database or demo.name
    admin = await _connect(server, "postgres")
    try:
        await admin.execute(f"CREATE DATABASE {_quoted(name)} TEMPLATE template0")
        await _create_reader(admin, reader_password)
    finally:
        await admin.close()
    connection = await _connect(server, name)
    try:
        for setting in ("customers", "orders", "events"):
            await connection.execute("SELECT set_config($1, $2, false)", f"demo.{setting}", str(getattr(demo, setting)))
        for part in ("shop", environment, "statistics", "reader"):
            script = files(__name__).joinpath(f"{part}.sql")
            await connection.execute(await asyncio.to_thread(script.read_text, "utf-8"))
    finally:
        await connection.close()
    return name


async def _create_reader(connection: asyncpg.Connection[Any], password: str) -> None:
    if not await connection.fetchval("SELECT count(*) FROM pg_roles WHERE rolname = $1", READER):
        await connection.execute(f"CREATE ROLE {READER} LOGIN")
    await connection.execute(f"ALTER ROLE {READER} SET default_transaction_read_only = on")
    await connection.execute(f"ALTER ROLE {READER} SET temp_file_limit = '1GB'")
    # Role statements take no parameters: the server itself makes the literal.
    await connection.execute(
        await connection.fetchval(f"SELECT format('ALTER ROLE {READER} PASSWORD %L', $1::text)", password)
    )


async def _connect(server: EmbeddedServer, database: str) -> asyncpg.Connection[Any]:
    # Every value by name: asyncpg would take what is missing from the environment.
    return await asyncpg.connect(
        host=server.host,
        port=server.port,
        user=server.user,
        password=server.password,
        database=database,
        ssl=False,
        timeout=10,
        command_timeout=_LOAD_S,
        server_settings={"TimeZone": "UTC"},  # days are added to timestamps: their length must not vary
    )


def _quoted(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'
