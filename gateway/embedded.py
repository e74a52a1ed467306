"""A throw-away PostgreSQL server for the demo and the tests: made in a second, gone with the process that made it.

Each server has a temporary folder, a free port on 127.0.0.1, and a superuser with a password of its own. A guardian
process (`embedded_guardian.py`) starts its programs and ends them with this process, however that ends. Durability is
switched off: never keep anything in it. Not for Windows.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal, Self
from urllib.parse import quote, urlencode

from gateway import embedded_guardian
from gateway.embedded_account import Account, choose_account, choose_folder, reachable_programs
from gateway.embedded_binaries import Binaries, find_binaries
from gateway.embedded_process import Guardian, Process
from gateway.errors import ConfigError

HOST = "127.0.0.1"
SUPERUSER = "postgres"
StopMode = Literal["fast", "immediate"]

START_S = 30.0
STOP_S = 30.0
_POLL_S = 0.005
_PORTS = range(15_000, 30_000)  # below the ports of outgoing connections: a client that retries could meet itself
_PORT_TRIES = 5
_LOG_LINES = 5

_DEFAULTS: Mapping[str, str] = MappingProxyType(
    {
        "fsync": "off",
        "full_page_writes": "off",
        "dynamic_shared_memory_type": "mmap",  # files in the folder: nothing stays in /dev/shm after a kill
        "timezone": "UTC",
        "log_timezone": "UTC",
    }
)
_HBA = tuple(
    f"{kind} scram-sha-256" for kind in ("local all all", f"host all all {HOST}/32", f"host replication all {HOST}/32")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTls:
    """PEM files with the certificate chain and the key that the server shows; both are copied."""

    cert_file: Path
    key_file: Path


class EmbeddedServer:
    """One server; made by `create`, which also ends it.

    Stopping it keeps its data, port and passwords for the next `start`.
    """

    host = HOST
    user = SUPERUSER

    def __init__(
        self, *, guardian: Guardian, binaries: Binaries, account: Account | None, programs: Path, port: int
    ) -> None:
        self.binaries = binaries
        self.port = port
        self.password = secrets.token_urlsafe(18)
        self.folder = guardian.folder
        self.data_dir = self.folder / "data"
        self._guardian = guardian
        self._account = account
        self._programs = programs
        self._process: Process | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def create(
        cls,
        *,
        binaries: Binaries | None = None,
        settings: Mapping[str, str] | None = None,
        tls: ServerTls | None = None,
        hba: Iterable[str] | None = None,
        inside: Path | None = None,
    ) -> AsyncIterator[Self]:
        """Make a server, wait until it takes connections, and remove it and its folder at the end.

        binaries: by default `find_binaries()`. settings: as in postgresql.conf. hba: the lines of pg_hba.conf instead
        of "scram for everybody on 127.0.0.1". inside: where the server's folder is made, by default where temporary
        files are. Raises ConfigError, with the last lines of the log, when it does not
        start; the wheel's server knows no TLS.
        """
        found = binaries if binaries is not None else await asyncio.to_thread(find_binaries)
        account = await asyncio.to_thread(choose_account)
        parent = str(inside) if inside is not None else await asyncio.to_thread(choose_folder, account)
        async with Guardian.watch(parent) as guardian:
            if account is not None:
                guardian.folder.chmod(0o711)  # to be passed through by the account, and not to be listed
            programs = await asyncio.to_thread(reachable_programs, found, account, copy_to=guardian.folder / "programs")
            server = cls(guardian=guardian, binaries=found, account=account, programs=programs, port=_free_port())
            await server._initialise(settings or {}, tls=tls, hba=hba or _HBA)
            await server._start_on_a_free_port()
            yield server

    @property
    def major_version(self) -> int:
        return self.binaries.major_version

    @property
    def pid(self) -> int | None:
        """The postmaster's process, None while the server is stopped."""
        return self._process.pid if self._process is not None and self._process.is_alive else None

    @property
    def log(self) -> str:
        """What the server has written so far."""
        return (self.folder / "log").read_text(errors="replace")

    def dsn(
        self, database: str = "postgres", *, user: str | None = None, password: str | None = None, **query: str
    ) -> str:
        """Return a connection URL, by default the superuser's; `query` as `sslmode="require"`."""
        login = f"{quote(user or self.user, safe='')}:{quote(password or self.password, safe='')}"
        url = f"postgresql://{login}@{self.host}:{self.port}/{quote(database, safe='')}"
        return f"{url}?{urlencode(query)}" if query else url

    async def start(self) -> None:
        """Start the server again, on the same port, and wait until it takes connections (START_S at most)."""
        if self.pid is not None:
            return
        argv = [str(self._programs / "postgres"), "-D", str(self.data_dir)]
        argv += ["-c", f"config_file={self.folder / 'server.conf'}", "-c", f"port={self.port}"]
        self._process = await self._run(argv)
        try:
            async with asyncio.timeout(START_S):
                while not self._is_ready():
                    if not self._process.is_alive:
                        raise ConfigError([f"PostgreSQL {self.binaries.version} did not start: {self._last_words()}"])
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise ConfigError([f"PostgreSQL was not ready within {START_S:g} s: {self._last_words()}"]) from None

    async def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server and wait for its end; `fast` ends the sessions, `immediate` is a crash to be recovered from.

        Raises TimeoutError after STOP_S.
        """
        if self._process is not None and self._process.is_alive:
            self._signal(signal.SIGINT if mode == "fast" else signal.SIGQUIT)
            self.resume()
            async with asyncio.timeout(STOP_S):
                await self._process.exit_code()

    async def restart(self, mode: StopMode = "fast") -> None:
        await self.stop(mode)
        await self.start()

    def pause(self) -> None:
        """Freeze the server and all its sessions: connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP, everyone=True)

    def resume(self) -> None:
        """Let a frozen server go on."""
        self._signal(signal.SIGCONT, everyone=True)

    def reload(self, *, tls: ServerTls | None = None) -> None:
        """Make the server read its files again, after replacing its certificate if one is given."""
        if tls is not None:
            self._copy_tls(tls)
        self._signal(signal.SIGHUP)

    async def _initialise(self, settings: Mapping[str, str], *, tls: ServerTls | None, hba: Iterable[str]) -> None:
        own = {"listen_addresses": self.host, "hba_file": str(self.folder / "pg_hba.conf")}
        own["unix_socket_directories"] = str(self._private_folder("socket"))
        if len(own["unix_socket_directories"]) > 80:  # noqa: PLR2004 - the name of a socket may have 103 bytes or a few more
            own["unix_socket_directories"] = ""
        if tls is not None:
            self._copy_tls(tls)
            own |= {"ssl": "on", "ssl_cert_file": str(self._cert), "ssl_key_file": str(self._key)}
        lines = [f"include {_quoted(str(self.data_dir / 'postgresql.conf'))}"]
        lines += [f"{name} = {_quoted(value)}" for name, value in {**_DEFAULTS, **own, **settings}.items()]
        self._write(self.folder / "server.conf", "\n".join(lines) + "\n")
        self._write(self.folder / "pg_hba.conf", "\n".join(hba) + "\n")
        self._private_folder("data")
        password_file = self.folder / "password"
        self._write(password_file, self.password)
        for locale in ("C.UTF-8", "C"):  # not every system has the first, and then initdb leaves an empty folder
            argv = [str(self._programs / "initdb"), "-D", str(self.data_dir), "-U", self.user, "-A", "scram-sha-256"]
            argv += ["--pwfile", str(password_file), "-E", "UTF8", f"--locale={locale}", "--no-sync"]
            if await (await self._run(argv)).exit_code() == 0:
                password_file.unlink()
                return
        raise ConfigError([f"initdb of PostgreSQL {self.binaries.version} failed: {self._last_words()}"])

    async def _start_on_a_free_port(self) -> None:
        for _ in range(_PORT_TRIES - 1):
            try:
                await self.start()
            except ConfigError:
                if "could not bind" not in self.log:
                    raise
                self.port = _free_port()  # another program was quicker
            else:
                return
        await self.start()

    async def _run(self, argv: list[str]) -> Process:
        return await self._guardian.run(argv, log=self.folder / "log", account=self._account)

    def _is_ready(self) -> bool:
        try:
            lines = (self.data_dir / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        # An older file may have been left by a crash: only this process's counts.
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"  # noqa: PLR2004 - line 8 is the state

    def _signal(self, number: signal.Signals, *, everyone: bool = False) -> None:
        if (pid := self.pid) is not None:
            # The postmaster first: a stopped one makes no new children while we look for them.
            embedded_guardian.send([pid], number)
            if everyone:
                embedded_guardian.send(embedded_guardian.family(pid)[1:], number)

    def _last_words(self) -> str:
        return " | ".join(self.log.strip().splitlines()[-_LOG_LINES:]) or "it wrote nothing"

    @property
    def _cert(self) -> Path:
        return self.folder / "server.crt"

    @property
    def _key(self) -> Path:
        return self.folder / "server.key"

    def _copy_tls(self, tls: ServerTls) -> None:
        self._write(self._cert, tls.cert_file.read_text())
        self._write(self._key, tls.key_file.read_text())

    def _private_folder(self, name: str) -> Path:
        path = self.folder / name
        path.mkdir(mode=0o700)
        if self._account is not None:
            self._account.own(path)
        return path

    def _write(self, path: Path, text: str) -> None:
        """Put a file in place at once, readable for the server's account alone."""
        fresh = path.with_name(f"{path.name}.new")
        fresh.touch(mode=0o600)
        fresh.write_text(text)
        if self._account is not None:
            self._account.own(fresh)
        fresh.replace(path)


def _free_port() -> int:
    for _ in range(100):
        port = secrets.choice(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return port
    raise ConfigError([f"no free port found between {_PORTS.start} and {_PORTS.stop} on {HOST}"])


def _quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"
