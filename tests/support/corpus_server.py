"""A server of its own for the statements of `tests/corpus`: attacks may break it, and it is made anew.

Copies of the corpus's database hold what attacks reach for beyond setup.sql: secrets in places of the catalogue, a
large object, a foreign server and a subscription. The reader is made by the SQL of docs/security.md itself.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg

from gateway.demo_data import READER
from gateway.embedded import EmbeddedServer
from tests.corpus import SETUP
from tests.support.postgres import Database, chosen_binaries, quick_folder

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "security.md"
# Each is planted in one place where a read-only role must not find it.
SECRETS: Final = {
    "table": "sk-not-for-you",
    "setting of the database": "jwt-not-for-you",
    "setting of the server": "conninfo-not-for-you",
    "subscription": "subscription-not-for-you",
    "user mapping": "mapping-not-for-you",
    "large object": "lob-not-for-you",
}
READER_PASSWORD: Final = "corpus r@der's password"
_TEMPLATE: Final = "corpus_template"
_SETTINGS: Final = {
    "autovacuum": "off",  # nothing but an attack may change a catalogue
    "checkpoint_timeout": "1d",
    "wal_level": "logical",
    "wal_writer_delay": "10ms",
    "max_prepared_transactions": "5",
    "max_connections": "60",
    "primary_conninfo": f"host=127.0.0.1 password={SECRETS['setting of the server']}",
}
_REPAIR: Final = (
    "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active",
    "SELECT pg_replication_origin_drop(roname) FROM pg_replication_origin WHERE roname = 'pwned'",
    f"ALTER ROLE {READER} NOSUPERUSER",
    "ALTER SYSTEM RESET ALL",
    "SELECT pg_reload_conf()",
    "DROP DATABASE IF EXISTS pwned",
    "DROP ROLE IF EXISTS pwned",
)


def documented_sql(database: str) -> str:
    """Return the SQL of docs/security.md that makes the reader, for this database."""
    blocks: list[str] = re.findall(r"```sql\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    (found,) = [block for block in blocks if f"CREATE ROLE {READER}" in block]
    return found.replace(" shop ", f" {database} ")


class CorpusServer:
    """A running server with a template of the corpus's database."""

    def __init__(self, server: EmbeddedServer, *, extensions: frozenset[str], dial_port: int) -> None:
        self.server = server
        self.extensions = extensions
        self.dial_port = dial_port
        self._numbers = itertools.count(1)
        # A second name of the file that attacks try to remove.
        self._kept = server.folder / "postgresql.conf.kept"
        self._kept.hardlink_to(server.data_dir / "postgresql.conf")

    @classmethod
    @asynccontextmanager
    async def run(cls, *, dial_port: int) -> AsyncIterator[CorpusServer]:
        """Start a server and load the template. dial_port: where its foreign server and subscription point to."""
        settings = {**_SETTINGS, "unix_socket_directories": ""}
        async with EmbeddedServer.create(
            binaries=chosen_binaries(), settings=settings, inside=quick_folder()
        ) as server:
            postgres = _database(server, "postgres")
            async with postgres.connection() as admin:
                await admin.execute(f"CREATE DATABASE {_TEMPLATE}")
                await admin.execute("ALTER ROLE postgres SET temp_file_limit = '256MB'")
            async with _database(server, _TEMPLATE).connection() as admin:
                await admin.execute(SETUP.read_text(encoding="utf-8"))
                await admin.execute(_plants(dial_port))
                await admin.execute(documented_sql(_TEMPLATE))
                await _finish_reader(admin)
                await admin.execute("VACUUM ANALYZE")
                rows = await admin.fetch("SELECT extname FROM pg_extension")
                found = {row["extname"] for row in rows}
                if await admin.fetchval("SELECT doc IS NOT NULL FROM public.files"):
                    found.add("xml")
            yield cls(server, extensions=frozenset(found), dial_port=dial_port)

    @property
    def major_version(self) -> int:
        return self.server.major_version

    @property
    def written_file(self) -> Path:
        """Where attacks write that say /tmp/pwned: two runs on one machine keep apart."""
        return self.server.data_dir / "pwned_outside"

    @asynccontextmanager
    async def database(self, name: str | None = None) -> AsyncIterator[Database]:
        """Copy the template; what a copy does not take along (grants on it, its settings, a subscription) is added."""
        name = name or f"corpus_{next(self._numbers)}"
        self._restore_files()
        async with _database(self.server, "postgres").connection() as admin:
            for statement in _REPAIR:
                await admin.execute(statement)
            await admin.execute(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE}")
            await admin.execute(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
            await admin.execute(f"GRANT CONNECT ON DATABASE {name} TO {READER}")
            await admin.execute(f"ALTER DATABASE {name} SET app.jwt_secret = '{SECRETS['setting of the database']}'")
        database = _database(self.server, name)
        conninfo = f"host=127.0.0.1 port={self.dial_port} password={SECRETS['subscription']}"
        async with database.connection() as admin:
            await admin.execute(
                f"CREATE SUBSCRIPTION s CONNECTION '{conninfo}' PUBLICATION p WITH (connect = false, slot_name = NONE)"
            )
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._drop, name)
            yield database

    def _restore_files(self) -> None:
        data = self.server.data_dir
        if not (data / "postgresql.conf").exists():
            (data / "postgresql.conf").hardlink_to(self._kept)
        for path in (self.written_file, data / "pwned"):
            path.unlink(missing_ok=True)

    async def _drop(self, name: str) -> None:
        async with _database(self.server, name).connection() as admin:
            for row in await admin.fetch("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"):
                await admin.execute(f"ROLLBACK PREPARED '{row['gid']}'")
            await admin.execute("DROP SUBSCRIPTION IF EXISTS s")
        async with _database(self.server, "postgres").connection() as admin:
            await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _database(server: EmbeddedServer, name: str) -> Database:
    return Database(server=server, name=name, reader_password=READER_PASSWORD)


def _plants(dial_port: int) -> str:
    return f"""
SELECT lo_from_bytea(4711, '{SECRETS["large object"]}');
DO $$ BEGIN
  IF EXISTS (SELECT FROM pg_available_extensions WHERE name = 'pg_walinspect') THEN
    CREATE EXTENSION pg_walinspect;
  END IF;
  IF EXISTS (SELECT FROM pg_extension WHERE extname = 'postgres_fdw') THEN
    CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '{dial_port}');
    CREATE USER MAPPING FOR postgres SERVER elsewhere OPTIONS (user 'x', password '{SECRETS["user mapping"]}');
  END IF;
END $$;"""


async def _finish_reader(admin: asyncpg.Connection[Any]) -> None:
    """Give the reader what the attacks presume: a password, the corpus's other schemas, and no right to secrets."""
    password = await admin.fetchval(f"SELECT format('ALTER ROLE {READER} PASSWORD %L', $1::text)", READER_PASSWORD)
    await admin.execute(password)
    await admin.execute(f"GRANT USAGE ON SCHEMA sales, shadow TO {READER}")
    await admin.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA sales TO {READER}")
    await admin.execute(f"REVOKE ALL ON public.secrets FROM {READER}")
