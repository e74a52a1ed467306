"""What a statement did, measured on the server rather than read from its answer.

A `Probe` looks from outside, as superuser: contents of tables, all catalogues, sequences, settings, slots, locks,
prepared transactions, resets of statistics, what was committed (from the write-ahead log, where pg_walinspect is),
files, lines of the server's log. What arrives by itself, it collects: notifications, dials to a port of its own, the
end of sessions that do nothing but sleep. `session_of` looks from inside, as the next caller on the same connection.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg
import orjson

from tests.support.polling import until
from tests.support.postgres import Database

CHANNELS: Final = ("attack", "a")
QUIET_S: Final = 10.0
_FLUSH_S: Final = 10.0

_RELATIONS_SQL: Final = """
SELECT c.oid::regclass::text AS name, c.relkind::text AS kind
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm', 'S')
  AND (n.nspname = 'pg_catalog' OR n.nspname !~ '^pg_' AND n.nspname <> 'information_schema')
ORDER BY 1"""
_RESETS_SQL: Final = """
SELECT attrelid::regclass::text AS name FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
WHERE attname = 'stats_reset' AND relkind = 'v' ORDER BY 1"""
# One line a fact: what it is called, and SQL for one text.
_FACTS: Final[Mapping[str, str]] = {
    "settings": "SELECT md5(string_agg(name || '=' || coalesce(setting, '-'), ';' ORDER BY name)) FROM pg_settings "
    "WHERE source NOT IN ('session', 'client')",
    "setting files": "SELECT md5(string_agg(f::text, ';' ORDER BY seqno)) FROM pg_file_settings f",
    "slots": "SELECT string_agg(slot_name, ',' ORDER BY 1) FROM pg_replication_slots",
    "prepared transactions": "SELECT string_agg(gid, ',' ORDER BY 1) FROM pg_prepared_xacts",
    "locks": "SELECT string_agg(DISTINCT locktype || ' ' || mode, ',') FROM pg_locks "
    "WHERE pid <> pg_backend_pid() AND locktype <> 'virtualxid'",
    "checkpoint": "SELECT redo_lsn::text FROM pg_control_checkpoint()",
    "log file": "SELECT pg_current_logfile()",
    "next transaction id": "SELECT pg_snapshot_xmax(pg_current_snapshot())::text",
}
# An aborted write leaves records, too; these are the ones that last.
_WAL_SQL: Final = """
SELECT string_agg(DISTINCT resource_manager || ' ' || record_type, ', ')
FROM pg_get_wal_records_info($1::text::pg_lsn, $2::text::pg_lsn)
WHERE resource_manager IN ('LogicalMessage', 'ReplicationOrigin', 'Sequence', 'Tablespace')
   OR resource_manager = 'Transaction' AND record_type ~ 'COMMIT|PREPARE'
   OR resource_manager = 'XLOG' AND record_type ~ 'SWITCH|RESTORE|BACKUP|PARAMETER'"""
_BUSY_SQL: Final = """
SELECT count(*) FROM pg_stat_activity
WHERE backend_type IN ('client backend', 'parallel worker') AND state <> 'idle' AND pid <> ALL ($1::int[])"""
# A session that was ended while it was idle leaves asyncpg in any of these.
_ENDED: Final = (asyncpg.InterfaceError, asyncpg.OperatorInterventionError, asyncpg.InternalClientError, OSError)
_QUIET_LOG: Final = re.compile(r"^(\S+ \S+ \S+ \[\d+\]) LOG:  (.*)$", re.MULTILINE)
# Facts that a transaction which is rolled back may move without any effect.
HARMLESS_FACTS: Final = frozenset({"next transaction id"})

_SESSION_SQL: Final = """SELECT json_build_object(
  'user', session_user || ' as ' || current_user,
  'settings', (SELECT json_object_agg(name, setting ORDER BY name) FROM pg_settings
    WHERE name <> 'application_name' AND name !~ '[.]'),
  'custom settings', nullif(concat(current_setting('app.tenant', true), current_setting('a.b', true),
    nullif(current_setting('pg_trgm.similarity_threshold', true), '0.3')), ''),
  'locks', (SELECT json_agg(DISTINCT locktype || mode) FROM pg_locks
    WHERE pid = pg_backend_pid() AND locktype NOT IN ('virtualxid', 'relation')),
  'prepared', (SELECT json_agg(name) FROM pg_prepared_statements WHERE name !~ '^__asyncpg'),
  'cursors', (SELECT json_agg(name) FROM pg_cursors WHERE name <> ''),
  'temporary tables', pg_my_temp_schema() <> 0,
  'channels', (SELECT json_agg(c) FROM pg_listening_channels() AS c))::text"""


async def session_of(connection: asyncpg.Connection[Any]) -> dict[str, Any]:
    """Return what the next caller finds in this session; two that are alike are equal."""
    found: dict[str, Any] = orjson.loads(await connection.fetchval(_SESSION_SQL))
    return found


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Say which entries differ, and how where that is short."""
    changed = []
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            changed += [f"{key}.{change}" for change in differences(old, new)]
        elif old != new:
            changed.append(f"{key}: {str(old)[:60]} -> {str(new)[:60]}")
    return changed


def found_in(reply: str, secrets: Iterable[str]) -> list[str]:
    """Return the secrets that a reply shows, in clear or as the start of a base64 value."""
    return [
        secret
        for secret in secrets
        if secret in reply or base64.b64encode(secret.encode()).decode().rstrip("=")[:-1] in reply
    ]


class Probe:
    """Looks at one database and its server; `attach` makes it."""

    def __init__(self, database: Database, port: int) -> None:
        self.database = database
        self.port = port
        self._arrived: list[str] = []
        self._monitor: asyncpg.Connection[Any] | None = None
        self._sleepers: dict[str, asyncio.Task[str]] = {}
        self._sleeper_pids: dict[str, int] = {}
        self._relations: list[str] = []
        self._has_wal = False
        self._lsn = "0/0"
        self._log_seen = 0

    @classmethod
    @asynccontextmanager
    async def attach(cls, database: Database, trap: Trap) -> AsyncIterator[Probe]:
        """Look at this database, and listen, until the end."""
        probe = cls(database, trap.port)
        trap.arrived = probe._arrived
        try:
            await probe._connect()
            for role in ("reader", "superuser"):
                await probe._send_to_sleep(role)
            await probe.drain()
            yield probe
        finally:
            for task in probe._sleepers.values():
                task.cancel()
            await asyncio.gather(*probe._sleepers.values(), return_exceptions=True)
            if probe._monitor is not None:
                probe._monitor.terminate()

    async def _connect(self) -> None:
        if self._monitor is not None:
            self._monitor.terminate()
        self._monitor = await asyncpg.connect(
            self.database.superuser_dsn, ssl=False, timeout=10, command_timeout=60, statement_cache_size=0
        )
        self._has_wal = await self._monitor.fetchval(
            "SELECT count(*) > 0 FROM pg_extension WHERE extname = 'pg_walinspect'"
        )
        self._lsn = await self._monitor.fetchval("SELECT pg_current_wal_lsn()::text")
        for channel in CHANNELS:
            await self._monitor.add_listener(channel, self._heard)
        await self._list_relations()

    def _heard(self, _connection: object, _pid: int, channel: str, payload: object) -> None:
        self._arrived.append(f"notification on {channel}: {payload}")

    async def _list_relations(self) -> None:
        assert self._monitor is not None
        self._relations = []
        for row in await self._monitor.fetch(_RELATIONS_SQL):
            name, kind = row["name"], row["kind"]
            if kind == "S":
                sql = f"SELECT concat_ws(',', last_value, log_cnt, is_called) FROM {name}"
            else:
                content = "coalesce(sum(hashtextextended(t.xmin || t::text, 0)), 0)"
                sql = f"SELECT count(*) || ' rows, ' || {content} FROM {name} t"
            self._relations.append(f"SELECT '{name.replace(chr(39), chr(39) * 2)}', ({sql})")
        for row in await self._monitor.fetch(_RESETS_SQL):
            sql = f"SELECT string_agg(stats_reset::text, ',') FROM {row['name']}"
            self._relations.append(f"SELECT 'reset of {row['name']}', ({sql})")

    async def _send_to_sleep(self, role: str) -> None:
        dsn = self.database.reader_dsn if role == "reader" else self.database.superuser_dsn
        connection = await asyncpg.connect(dsn, ssl=False, timeout=10, server_settings={"statement_timeout": "0"})
        self._sleeper_pids[role] = connection.get_server_pid()

        async def sleep() -> str:
            try:
                await connection.fetchval("SELECT pg_sleep(3600)")
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
                return type(error).__name__
            finally:
                connection.terminate()
            return "woke up"

        self._sleepers[role] = asyncio.create_task(sleep())

    async def is_quiet(self, *, within_s: float = QUIET_S) -> bool:
        """Wait until nobody works on the server but those who sleep; say whether that came true."""

        async def nobody_works() -> bool:
            own = [*self._sleeper_pids.values(), self._monitor_pid()]
            return bool(await self._fetch(_BUSY_SQL, own) == 0)

        return await until(nobody_works, within_s=within_s)

    def _monitor_pid(self) -> int:
        assert self._monitor is not None
        return 0 if self._monitor.is_closed() else self._monitor.get_server_pid()

    async def _fetch(self, sql: str, *arguments: Any) -> Any:
        for _ in range(2):
            assert self._monitor is not None
            try:
                return await self._monitor.fetchval(sql, *arguments)
            except _ENDED as error:
                # An attack reached it; what it did is looked at from a new session.
                self._arrived.append(f"the watching session ended: {type(error).__name__}")
                await self._reconnect()
        raise AssertionError("the server does not answer the probe")

    async def _reconnect(self) -> None:
        async def connects() -> bool:
            try:
                await self._connect()
            except (*_ENDED, asyncpg.PostgresError):
                return False
            return True

        assert await until(connects), f"the server is gone: {self.database.server.log[-2000:]}"

    async def state(self) -> dict[str, Any]:
        """Return the server's and the database's state, by fact."""
        facts = [f"SELECT '{name}', ({sql})" for name, sql in _FACTS.items()]
        sql = "SELECT json_object_agg(k, v) FROM ({}) AS x(k, v)"
        try:
            found = await self._fetch(sql.format(" UNION ALL ".join([*facts, *self._relations])))
        except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError):
            await self._list_relations()
            found = await self._fetch(sql.format(" UNION ALL ".join([*facts, *self._relations])))
        state: dict[str, Any] = {key: value for key, value in orjson.loads(found).items() if value is not None}
        state["files"] = dict.fromkeys(self._files(), "there")
        return state

    def _files(self) -> list[str]:
        data = self.database.server.data_dir
        names = []
        for folder in (data, data / "pg_snapshots", data / "pg_tblspc", data / "pg_twophase", data / "pg_logical"):
            names += [str(path.relative_to(data)) for path in folder.iterdir() if path.name != "current_logfiles"]
        names += [str(path.relative_to(data)) for path in data.glob("base/pgsql_tmp/*")]
        return sorted(names)

    async def drain(self) -> list[str]:
        """Return what arrived since the last time: notifications, dials, ended sessions, commits, lines of the log."""
        await self._fetch("SELECT 1")  # notifications come with it
        for role, task in list(self._sleepers.items()):
            if task.done():
                self._arrived.append(f"a sleeping session of the {role} ended: {task.result()}")
                await self._send_to_sleep(role)
        await self._read_wal()
        log = self.database.server.log
        self._arrived += [f"log: {line[:100]}" for _, line in _QUIET_LOG.findall(log[self._log_seen :])]
        self._log_seen = len(log)
        found, self._arrived[:] = list(self._arrived), []
        return found

    async def _read_wal(self) -> None:
        """Note what was written for good since the last time."""
        if not self._has_wal:
            return
        start, end = self._lsn, await self._fetch("SELECT pg_current_wal_insert_lsn()::text")
        if start == end:
            return
        # The writer flushes what was committed, and with it all that stands before.
        await self._fetch("SELECT pg_current_xact_id()::text")

        async def is_flushed() -> bool:
            return bool(await self._fetch("SELECT pg_current_wal_flush_lsn() >= $1::text::pg_lsn", end))

        assert await until(is_flushed, within_s=_FLUSH_S), "the write-ahead log is not flushed"
        self._lsn = await self._fetch("SELECT pg_current_wal_insert_lsn()::text")
        # Nothing but padding between the two; or a checkpoint has removed the file, which is noted by itself.
        with contextlib.suppress(asyncpg.InvalidParameterValueError, asyncpg.UndefinedFileError):
            if records := await self._fetch(_WAL_SQL, start, end):
                self._arrived.append(f"write-ahead log: {records}")


class Trap:
    """A port of loopback that a statement of the corpus may dial; who does is noted and let go."""

    def __init__(self, server: asyncio.Server) -> None:
        self._server = server
        self.arrived: list[str] = []

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator[Trap]:
        traps: list[Trap] = []

        def accept(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            traps[0].arrived.append("a dial-out")
            writer.close()

        async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
            traps.append(cls(server))
            yield traps[0]

    @property
    def port(self) -> int:
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def aimed(self, sql: str) -> str:
        """Return the statement with its connection strings pointed here."""
        sql = re.sub(r"port=1\b", f"port={self.port}", sql)
        sql = re.sub(r"host=127\.0\.0\.1(?! port)", f"host=127.0.0.1 port={self.port}", sql)
        sql = re.sub(r"'dbname=postgres'", f"'host=127.0.0.1 port={self.port} dbname=postgres'", sql)
        return sql.replace("http://127.0.0.1/", f"http://127.0.0.1:{self.port}/").replace(
            "host '127.0.0.1'", f"host '127.0.0.1', port '{self.port}'"
        )
