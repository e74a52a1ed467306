"""A PgBouncer of our own before an embedded server, as an operator would set it up: transaction mode and few server
connections, so that clients really share them.

`scripts/get-pgbouncer` installs the program. Where it is missing, a test is skipped and says so; with CI=true it fails.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import asyncpg
import pytest

from gateway.app import Gateway
from gateway.embedded import EmbeddedServer, ServerTls
from gateway.embedded_account import Account, choose_account, choose_folder
from gateway.embedded_guardian import send
from gateway.embedded_process import Guardian, Process
from gateway.observe import Observer
from gateway.profiles import Endpoint, Profile
from tests.support.effects import session_of
from tests.support.gateway import call, config_of, profile_of
from tests.support.missing import missing
from tests.support.polling import until
from tests.support.postgres import Database, Pair

HOST = "127.0.0.1"
START_S = 10.0
# What all clients with one login share.
SERVER_CONNECTIONS = 2
_OPERATOR = "operator"
# Below the ports of outgoing connections: a client that dials a port where nobody listens could meet itself.
_PORTS = range(15_000, 30_000)
# Azure's own PgBouncer ignores no start-up parameter either.
_SETTINGS: Mapping[str, str] = {
    "listen_addr": HOST,
    "unix_socket_dir": "",
    "auth_type": "scram-sha-256",
    "pool_mode": "transaction",
    "default_pool_size": str(SERVER_CONNECTIONS),
    "max_client_conn": "100",
    "ignore_startup_parameters": "",
    "admin_users": _OPERATOR,
    "logfile": "",
    "pidfile": "",
}


def find_pgbouncer() -> str | None:
    """Return the program's path; Debian puts it where the PATH of a user does not lead."""
    return shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")


def pgbouncer_or_skip() -> str:
    """Return the program's path, or skip the test; with CI=true fail it."""
    return find_pgbouncer() or missing("PgBouncer was not found: scripts/get-pgbouncer installs it on Debian as root")


class PgBouncer:
    """One PgBouncer; made by `before`, which also ends it."""

    host = HOST

    def __init__(self, *, program: str, guardian: Guardian, account: Account | None) -> None:
        self.port = _free_port()
        self._program = program
        self._guardian = guardian
        self._account = account
        self._operator_password = secrets.token_urlsafe(12)
        self._process: Process | None = None

    @classmethod
    @asynccontextmanager
    async def before(
        cls, *databases: Database, tls: ServerTls | None = None, settings: Mapping[str, str] | None = None
    ) -> AsyncIterator[Self]:
        """Run one for the logins of these databases, all of one server, until the end of the block."""
        program = pgbouncer_or_skip()
        account = await asyncio.to_thread(choose_account)
        folder = await asyncio.to_thread(choose_folder, account)
        async with Guardian.watch(folder) as guardian:
            if account is not None:
                guardian.folder.chmod(0o711)  # to be passed through by the account, and not to be listed
            pooler = cls(program=program, guardian=guardian, account=account)
            pooler._configure(databases[0].server, databases, tls=tls, settings=settings or {})
            await pooler.start()
            yield pooler

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(host=self.host, port=self.port)

    @property
    def log(self) -> str:
        """What PgBouncer has written so far."""
        return (self._guardian.folder / "log").read_text(errors="replace")

    async def start(self) -> None:
        """Start it, again on the same port, and wait until it takes connections."""
        argv = [self._program, str(self._guardian.folder / "pgbouncer.ini")]
        log = self._guardian.folder / "log"
        process = self._process = await self._guardian.run(argv, log=log, account=self._account)
        if not await until(lambda: self._listens(process), within_s=START_S):
            pytest.fail(f"PgBouncer did not start: {self.log[-2000:]}")

    async def stop(self) -> None:
        """End it at once, as `systemctl stop` does in this version: clients are told."""
        await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """End it without a word to anybody."""
        await self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Let it stand still: connections stay open, and nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    async def order(self, command: str) -> None:
        """Give an order at the admin console: PAUSE, RESUME, KILL, RECONNECT, SET …"""
        connection = await asyncpg.connect(
            host=self.host,
            port=self.port,
            user=_OPERATOR,
            password=self._operator_password,
            database="pgbouncer",
            ssl=False,
            timeout=10,
            command_timeout=30,
        )
        try:
            await connection.execute(command)
        finally:
            connection.terminate()

    @asynccontextmanager
    async def client(self, database: Database, **settings: str) -> AsyncIterator[asyncpg.Connection[Any]]:
        """Connect as another program would that logs in as the gateway does, and so shares its server connections."""
        connection = await asyncpg.connect(
            host=self.host,
            port=self.port,
            user=database.reader,
            password=database.reader_password,
            database=database.name,
            ssl=False,
            statement_cache_size=0,
            timeout=10,
            command_timeout=60,
            server_settings=settings,
        )
        try:
            yield connection
        finally:
            connection.terminate()

    async def _end(self, number: signal.Signals) -> None:
        self._signal(number)
        self.thaw()
        if self._process is not None:
            async with asyncio.timeout(START_S):
                await self._process.exit_code()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.is_alive:
            send([self._process.pid], number)

    async def _listens(self, process: Process) -> bool:
        if not process.is_alive:
            pytest.fail(f"PgBouncer ended at once: {self.log[-2000:]}")
        try:
            _, writer = await asyncio.open_connection(self.host, self.port)
        except OSError:
            return False
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        return True

    def _configure(
        self,
        server: EmbeddedServer,
        databases: tuple[Database, ...],
        *,
        tls: ServerTls | None,
        settings: Mapping[str, str],
    ) -> None:
        users = {_OPERATOR: self._operator_password, server.user: server.password}
        users |= {database.reader: database.reader_password for database in databases}
        own = {"listen_port": str(self.port), "auth_file": str(self._guardian.folder / "users.txt")}
        if tls is not None:
            certificate = self._write("server.crt", tls.cert_file.read_text())
            key = self._write("server.key", tls.key_file.read_text())
            own |= {"client_tls_sslmode": "require"}
            own |= {"client_tls_cert_file": str(certificate), "client_tls_key_file": str(key)}
        # In clear: with a mere verifier it could not log in to the server by SCRAM itself.
        self._write("users.txt", "".join(f"{_quoted(name)} {_quoted(word)}\n" for name, word in users.items()))
        lines = ["[databases]", f"* = host={server.host} port={server.port}", "[pgbouncer]"]
        lines += [f"{name} = {value}" for name, value in {**_SETTINGS, **own, **settings}.items()]
        self._write("pgbouncer.ini", "\n".join(lines) + "\n")

    def _write(self, name: str, text: str) -> Path:
        path = self._guardian.folder / name
        path.touch(mode=0o600)
        path.write_text(text, encoding="utf-8")
        if self._account is not None:
            self._account.own(path)
        return path


def pooled(pooler: PgBouncer, database: Database, /, **changes: Any) -> Profile:
    """Return a profile `first` that reaches the database through the pooler; `changes` are fields of Profile."""
    behind = profile_of(database, "first", endpoints=(pooler.endpoint,), pooler="pgbouncer")
    return replace(behind, **changes)


@asynccontextmanager
async def gateway_behind(
    pooler: PgBouncer, pair: Pair, /, *, observers: Sequence[Observer] = (), **changes: Any
) -> AsyncIterator[Gateway]:
    """Run a gateway with the profile `first` behind the pooler and `second` straight at the other server."""
    profiles = pooled(pooler, pair.first, **changes), profile_of(pair.second, "second")
    async with Gateway(config_of(*profiles), environ={}, observers=observers) as gateway:
        yield gateway


async def sessions(pooler: PgBouncer, database: Database, *orders: str) -> dict[int, dict[str, Any]]:
    """Return, as a stranger finds them, all sessions that clients share, by process; first give `orders` in each."""
    found = {}
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(pooler.client(database)) for _ in range(SERVER_CONNECTIONS)]
        for client in clients:
            # A transaction holds its server connection, so the next client gets another.
            await client.execute("BEGIN READ WRITE")
        for client in clients:
            for order in orders:
                await client.execute(order)
            found[await client.fetchval("SELECT pg_backend_pid()")] = await session_of(client)
        for client in clients:
            await client.execute("COMMIT" if orders else "ROLLBACK")
    assert len(found) == SERVER_CONNECTIONS
    return found


async def together(gateway: Gateway, count: int, tool: str, **arguments: Any) -> list[dict[str, Any]]:
    """Return the answers to so many calls at once: enough to meet every server connection."""
    return await asyncio.gather(*(call(gateway, tool, **arguments) for _ in range(count)))


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _free_port() -> int:
    for _ in range(100):
        port = secrets.choice(_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            return port
    pytest.fail("no free port was found for PgBouncer")
