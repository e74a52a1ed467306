"""The server that all contestants read: one PostgreSQL, a database of 100 tables and one of 10,000."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

import asyncpg

from gateway.embedded import EmbeddedServer

READER: Final = "bench_reader"
TABLES: Final = {"small": 100, "large": 10_000}
# A table takes a lock each; one transaction must not hold them all.
_TABLES_AT_ONCE: Final = 500
_ITEMS_SQL: Final = """
CREATE TABLE items (
  id bigint PRIMARY KEY, sku text NOT NULL, name text NOT NULL, price numeric(10,2) NOT NULL, weight float8,
  active boolean NOT NULL, created_at timestamptz NOT NULL, attributes jsonb NOT NULL);
COMMENT ON TABLE items IS 'What is for sale';
INSERT INTO items SELECT n, 'SKU-' || lpad(n::text, 8, '0'), 'Item ' || n || ' with a name of some words',
  n % 9973 / 7.0, n / 3.0, n % 3 > 0, timestamptz '2024-01-01' + n * interval '37 minutes',
  jsonb_build_object('color', (ARRAY['red', 'green', 'blue'])[n % 3 + 1], 'size', n % 40, 'tags', jsonb_build_array(
    'tag-' || n % 7, 'tag-' || n % 11)) FROM generate_series(1, 10000) AS n;
CREATE INDEX ON items (sku)"""
_SMALL_SQL: Final = """
DO $$ BEGIN FOR n IN {first}..{last} LOOP
  EXECUTE format('CREATE TABLE t_%s (id bigint PRIMARY KEY, item bigint, made_at timestamptz)', lpad(n::text, 5, '0'));
END LOOP; END $$"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Databases:
    """Where the databases `small` and `large` are, and who may read them."""

    port: int
    password: str = field(repr=False)
    host: str = EmbeddedServer.host

    def dsn(self, name: str) -> str:
        """Return the connection URL of one of them."""
        return f"postgresql://{READER}:{self.password}@{self.host}:{self.port}/{name}?sslmode=disable"

    def profiles(self, *, port: int | None = None) -> str:
        """Return a profiles.toml with one profile per database; `port` is that of a relay in between."""
        lines = ['default = "small"']
        for name in TABLES:
            lines += [f"[profiles.{name}]", f'host = "{self.host}"', f"port = {port or self.port}"]
            lines += [f'database = "{name}"', f'user = "{READER}"', f'password = "literal:{self.password}"']
            lines += ['ssl_mode = "disable"']
        return "\n".join(lines) + "\n"


def _wide_sql() -> str:
    kinds = ("integer", "text", "numeric(12,2)", "boolean", "date", "float8")
    values = ("n * 7", "'value ' || n", "n / 7.0", "n % 2 = 0", "date '2024-01-01' + n", "n / 3.0")
    columns = ", ".join(f"column_{i:02} {kinds[i % 6]}" for i in range(60))
    rows = f"SELECT {', '.join(values * 10)} FROM generate_series(1, 200) AS n"
    return f"CREATE TABLE wide ({columns}); INSERT INTO wide {rows}"


async def _fill(server: EmbeddedServer, name: str, tables: int) -> None:
    connection = await asyncpg.connect(server.dsn(name), ssl=False, timeout=10, command_timeout=120)
    try:
        await connection.execute(_ITEMS_SQL)
        await connection.execute(_wide_sql())
        for first in range(3, tables + 1, _TABLES_AT_ONCE):
            last = min(first + _TABLES_AT_ONCE - 1, tables)
            await connection.execute(_SMALL_SQL.format(first=first, last=last))
        await connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {READER}")
        for relation in ("items", "wide", "pg_class", "pg_attribute", "pg_depend", "pg_index", "pg_namespace"):
            await connection.execute(f"VACUUM ANALYZE {relation}")
    finally:
        await connection.close(timeout=5)


@contextlib.asynccontextmanager
async def bench_databases() -> AsyncIterator[Databases]:
    """Start the server, fill both databases, and remove it all at the end."""
    password = secrets.token_hex(12)
    async with EmbeddedServer.create(settings={"max_connections": "100", "autovacuum": "off"}) as server:
        admin = await asyncpg.connect(server.dsn(), ssl=False, timeout=10, command_timeout=60)
        try:
            await admin.execute(f"CREATE ROLE {READER} LOGIN PASSWORD '{password}'")
            for name in TABLES:
                await admin.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        finally:
            await admin.close(timeout=5)
        for name, tables in TABLES.items():
            await _fill(server, name, tables)
        yield Databases(port=server.port, password=password)
