"""Streaming replication between throw-away servers: a standby of one, its promotion, an old primary that follows."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from gateway.embedded import EmbeddedServer
from gateway.embedded_binaries import find_binaries
from gateway.errors import ConfigError
from tests.support.missing import missing
from tests.support.polling import until
from tests.support.postgres import chosen_binaries, quick_folder

_COPY_S = 60.0


def newest_basebackup() -> Path:
    """Return the newest `pg_basebackup`, which copies every older server; without one, skip the test (in CI: fail)."""
    found: dict[int, Path] = {}
    for source in ("system", "wheel"):
        try:
            program = find_binaries(source).folder / "pg_basebackup"
        except ConfigError:
            continue
        if os.access(program, os.X_OK):
            told = subprocess.run([str(program), "--version"], capture_output=True, text=True, check=True, timeout=10)
            version = re.search(r"\) (\d+)", told.stdout)
            assert version is not None, told.stdout
            found[int(version[1])] = program
    if not found or max(found) < chosen_binaries().major_version:
        reason = f"no pg_basebackup for PostgreSQL {chosen_binaries().version} here or in the wheel of the `demo` extra"
        missing(reason)
    return found[max(found)]


async def follow(standby: EmbeddedServer, primary: EmbeddedServer) -> None:
    """Make `standby`, whatever it was, a streaming standby of `primary`, with its data, roles and passwords."""
    program = newest_basebackup()
    await standby.stop("immediate")
    owner = standby.data_dir.stat()
    shutil.rmtree(standby.data_dir)
    source = f"host={primary.host} port={primary.port} user={primary.user} application_name=standby_{standby.port}"
    argv = [str(program), "-d", source, "-D", str(standby.data_dir), "-X", "stream", "-c", "fast", "--no-sync"]
    process = await asyncio.create_subprocess_exec(
        *argv,
        env={"PATH": os.defpath, "LC_ALL": "C", "PGPASSWORD": primary.password},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(_COPY_S):
        told, _ = await process.communicate()
    assert process.returncode == 0, told.decode()
    # Not by its own -R, which writes options that only its own version knows.
    with (standby.data_dir / "postgresql.auto.conf").open("a") as settings:
        settings.write(f"primary_conninfo = '{source} password={primary.password}'\n")
    (standby.data_dir / "standby.signal").touch()
    for path in (standby.data_dir, *standby.data_dir.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
    standby.password = primary.password
    await standby.start()
    assert await until(lambda: is_streaming(standby, primary)), standby.log[-1500:]


async def promote(standby: EmbeddedServer) -> None:
    """Make a standby a primary, and wait until it is one."""
    assert await ask(standby, "SELECT pg_promote(true, 30)")


async def ask(server: EmbeddedServer, sql: str) -> Any:
    """Return the one value of a statement, as superuser past the gateway."""
    connection = await asyncpg.connect(server.dsn(), ssl=False, timeout=10, command_timeout=60)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close(timeout=5)


async def has_replayed_all(standby: EmbeddedServer, primary: EmbeddedServer) -> bool:
    """Say whether the standby shows everything that the primary has written by now."""
    position = await ask(primary, "SELECT pg_current_wal_lsn()::text")
    return bool(await ask(standby, f"SELECT pg_last_wal_replay_lsn() >= '{position}'"))


async def is_streaming(standby: EmbeddedServer, primary: EmbeddedServer) -> bool:
    """Say whether the primary sends to this standby."""
    return bool(
        await ask(
            primary,
            f"SELECT count(*) FROM pg_stat_replication WHERE application_name = 'standby_{standby.port}'"
            " AND state = 'streaming'",
        )
    )


@dataclass(frozen=True, slots=True)
class Replicated:
    """A primary and its streaming standby, by the roles they start with."""

    primary: EmbeddedServer
    standby: EmbeddedServer

    def by(self, order: str) -> tuple[EmbeddedServer, EmbeddedServer]:
        """Return both, the one that `order` names first."""
        return (self.primary, self.standby) if order == "primary" else (self.standby, self.primary)


@asynccontextmanager
async def replicated() -> AsyncIterator[Replicated]:
    """Run a primary and its standby."""
    newest_basebackup()
    binaries = chosen_binaries()
    async with AsyncExitStack() as stack:
        primary, standby = [
            await stack.enter_async_context(
                EmbeddedServer.create(
                    binaries=binaries, inside=quick_folder(), settings={"wal_retrieve_retry_interval": "200ms"}
                )
            )
            for _ in range(2)
        ]
        await follow(standby, primary)
        yield Replicated(primary, standby)
