"""Two PostgreSQL servers with two different databases: a statement that takes the wrong wire gets the wrong answer.

The servers differ in port, superuser's password and reader's password; the databases in name and content
(`gateway.demo_data`: the first is `local`, the second `azure_dev`).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import trustme

from gateway.demo_data import READER, Environment, load_demo
from gateway.embedded import EmbeddedServer, ServerTls
from gateway.embedded_binaries import Binaries, find_binaries

BINARIES_VARIABLE = "PG_TEST_BIN"
_TEMPLATE = "demo_template"
_ROOM_BYTES = 2**30
_READER_PASSWORDS = ("first r@der's password", "second r@der's password")
_ENVIRONMENTS: tuple[Environment, Environment] = ("local", "azure_dev")


def chosen_binaries() -> Binaries:
    """Return the folder that PG_TEST_BIN names, else what the machine or the wheel has."""
    folder = os.environ.get(BINARIES_VARIABLE)
    return find_binaries(folder=Path(folder) if folder else None)


def quick_folder() -> Path | None:
    """Return a folder in memory if there is a roomy one: a copied database takes 10 ms there, 300 ms on some disks."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        return None
    state = os.statvfs(memory)
    is_roomy = state.f_bavail * state.f_frsize >= _ROOM_BYTES
    return memory if is_roomy and not state.f_flag & os.ST_NOEXEC else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """How to reach one database, as superuser or as the role for reading."""

    server: EmbeddedServer
    name: str
    reader_password: str = field(repr=False)
    reader: str = READER

    @property
    def host(self) -> str:
        return self.server.host

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def superuser(self) -> str:
        return self.server.user

    @property
    def superuser_password(self) -> str:
        return self.server.password

    @property
    def reader_dsn(self) -> str:
        return self.server.dsn(self.name, user=self.reader, password=self.reader_password)

    @property
    def superuser_dsn(self) -> str:
        return self.server.dsn(self.name)

    @asynccontextmanager
    async def connection(self, *, as_reader: bool = False) -> AsyncIterator[asyncpg.Connection[Any]]:
        """Open a connection past the gateway: to arrange what a test needs, and to look at what it left."""
        connection = await asyncpg.connect(
            self.reader_dsn if as_reader else self.superuser_dsn, ssl=False, timeout=10, command_timeout=60
        )
        try:
            yield connection
        finally:
            await connection.close(timeout=5)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two databases on two servers."""

    first: Database
    second: Database

    def __iter__(self) -> Iterator[Database]:
        return iter((self.first, self.second))


class Servers:
    """Two running servers that hold a template each, and hand out copies of it."""

    def __init__(self, first: EmbeddedServer, second: EmbeddedServer) -> None:
        self.first = first
        self.second = second
        self._numbers = itertools.count(1)

    @classmethod
    @asynccontextmanager
    async def run(cls) -> AsyncIterator[Servers]:
        binaries = chosen_binaries()
        async with AsyncExitStack() as stack:
            started = [
                await stack.enter_async_context(EmbeddedServer.create(binaries=binaries, inside=quick_folder()))
                for _ in _ENVIRONMENTS
            ]
            servers = cls(*started)
            for server, environment, password in zip(started, _ENVIRONMENTS, _READER_PASSWORDS, strict=True):
                await load_demo(server, environment, reader_password=password, database=_TEMPLATE)
            yield servers

    @asynccontextmanager
    async def copy(self) -> AsyncIterator[Pair]:
        """Copy both templates (see `quick_folder`); the copies are dropped at the end, whoever is connected."""
        number = next(self._numbers)
        async with AsyncExitStack() as stack:
            first = await stack.enter_async_context(self._copy(0, f"first_{number}"))
            second = await stack.enter_async_context(self._copy(1, f"second_{number}"))
            yield Pair(first, second)

    @asynccontextmanager
    async def _copy(self, index: int, name: str) -> AsyncIterator[Database]:
        server = (self.first, self.second)[index]
        database = Database(server=server, name=name, reader_password=_READER_PASSWORDS[index])
        maintenance = Database(server=server, name="postgres", reader_password=_READER_PASSWORDS[index])
        # What is granted on a database is not copied with it: nobody but the reader may connect, and not write.
        async with maintenance.connection() as admin:
            await admin.execute(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE}")
            await admin.execute(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
            await admin.execute(f"GRANT CONNECT ON DATABASE {name} TO {READER}")
        try:
            yield database
        finally:
            await server_up(server)
            async with maintenance.connection() as admin:
                await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def server_up(server: EmbeddedServer) -> None:
    """Bring a server back that a test has paused or stopped."""
    server.resume()
    await server.start()


def certificate(authority: trustme.CA, folder: Path, *names: str) -> ServerTls:
    """Write a server's certificate for these names into the folder; by default the two names of loopback."""
    folder.mkdir(exist_ok=True)
    issued = authority.issue_cert(*(names or ("localhost", "127.0.0.1")))
    tls = ServerTls(cert_file=folder / "server.crt", key_file=folder / "server.key")
    issued.private_key_pem.write_to_path(tls.key_file)
    tls.cert_file.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    return tls
