"""The databases of the fault matrix: one for each tool, of the same name and content on two servers.

The second server is what a failover leads to; a neighbour that no fault may touch lives there, too. Each tool has a
database to itself, so that one may lock what its statement needs without stopping the others.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from gateway.profiles import Endpoint, Limits, PoolSettings, Profile, RetrySettings, Tls
from gateway.tools import TOOLS
from tests.support.postgres import Database, Servers

NEIGHBOUR = "neighbour"
CALL_S = 2.0
POOL_MAX = 2
READER = "matrix_reader"

_TEMPLATE = "matrix_template"
# Answers of some kilobytes from every tool: long enough to be cut in the middle.
_CONTENT = """
DO $$
DECLARE columns text := (SELECT string_agg(format('"a column with a long name, number %s" int DEFAULT %s', n, n), ', ')
    FROM generate_series(1, 60) AS n);
BEGIN
    EXECUTE format('CREATE TABLE wide (id int PRIMARY KEY, note text, %s)', columns);
    FOR n IN 1..50 LOOP
        EXECUTE format('CREATE TABLE wide_%s (id int)', n);
        EXECUTE format('COMMENT ON TABLE wide_%s IS %L', n, repeat('what it holds ', 10));
    END LOOP;
END $$;
INSERT INTO wide (id, note) SELECT n, repeat('note ', 20) FROM generate_series(1, 50) AS n;
ANALYZE wide;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """Where the cells of the matrix take place."""

    servers: Servers
    password: str = field(repr=False)

    @classmethod
    @asynccontextmanager
    async def prepare(cls, servers: Servers) -> AsyncIterator[Ground]:
        """Make the databases on both servers, and drop them at the end."""
        ground = cls(servers=servers, password=secrets.token_urlsafe(12))
        names = [_TEMPLATE, *(database_of(tool.name) for tool in TOOLS), database_of(NEIGHBOUR)]
        for server in (servers.first, servers.second):
            admin = await _connect(server.dsn())
            await admin.execute(f"CREATE ROLE {READER} LOGIN PASSWORD '{ground.password}'")
            await admin.execute(f"CREATE DATABASE {_TEMPLATE} TEMPLATE template0")
            loading = await _connect(server.dsn(_TEMPLATE))
            await loading.execute(f"{_CONTENT}; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {READER}")
            await loading.close()
            for name in names[1:]:
                await admin.execute(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE}")
            await admin.close()
        yield ground
        for server in (servers.first, servers.second):
            admin = await _connect(server.dsn())
            for name in names:
                await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
            await admin.execute(f"DROP ROLE {READER}")
            await admin.close()

    def database(self, tool: str, *, on_second: bool = False) -> Database:
        """Return the database of a tool, or the neighbour's."""
        server = self.servers.second if on_second else self.servers.first
        return Database(server=server, name=database_of(tool), reader=READER, reader_password=self.password)

    def address(self, tool: str, *, on_second: bool = False) -> tuple[str, int]:
        """Return where that database is; the neighbour's is on the second server alone."""
        database = self.database(tool, on_second=on_second or tool == NEIGHBOUR)
        return database.host, database.port

    def profile(self, name: str, tool: str, address: tuple[str, int]) -> Profile:
        """Return a profile that reads the database of `tool` at `address`, and has little time and few connections."""
        host, port = address
        return Profile(
            name=name,
            endpoints=(Endpoint(host=host, port=port),),
            database=database_of(tool),
            user=READER,
            password=f"literal:{self.password}",
            tls=Tls(mode="disable"),
            pool=PoolSettings(min=0, max=POOL_MAX),
            limits=Limits(call_s=CALL_S, statement_s=CALL_S * 0.75, acquire_s=CALL_S / 2),
            retry=RetrySettings(first_wait_s=0.05, max_wait_s=0.3),
        )


def database_of(tool: str) -> str:
    return f"matrix_{tool}"


async def _connect(dsn: str) -> asyncpg.Connection[Any]:
    return await asyncpg.connect(dsn, ssl=False, timeout=10, command_timeout=60)
