"""The command as a user runs it: in a process of its own, with an environment of its own, and with bounds."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.polling import until

START_S = 20.0
END_S = 10.0
COMMAND_S = 60.0
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV")
_SERVING = re.compile(r"serving MCP at (http://\S+)")


def environment(**variables: str) -> dict[str, str]:
    """Return an environment without what of the tester's own could reach a profile."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    # Wide enough for no word of a table to be folded.
    return {**kept, "COLUMNS": "160", "PYTHONWARNINGS": "error", **variables}


def command(*arguments: str) -> list[str]:
    """Return the command line of `pg-gateway` with these arguments."""
    return [sys.executable, "-m", "gateway", *arguments]


@dataclass(frozen=True, slots=True)
class Ended:
    """What a command left: its exit code, stdout and stderr."""

    code: int
    out: str
    err: str


async def run(
    *arguments: str, cwd: Path | None = None, stdin: bytes | None = None, environ: Mapping[str, str] | None = None
) -> Ended:
    """Run `pg-gateway` with these arguments to its end."""
    return await run_program(command(*arguments), cwd=cwd, stdin=stdin, environ=environ)


async def run_program(
    argv: list[str], *, cwd: Path | None = None, stdin: bytes | None = None, environ: Mapping[str, str] | None = None
) -> Ended:
    """Run any program to its end; one that takes longer than COMMAND_S is killed and fails the test."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        cwd=cwd,
        stdin=DEVNULL if stdin is None else PIPE,
        stdout=PIPE,
        stderr=PIPE,
        env=environment() if environ is None else dict(environ),
    )
    try:
        async with asyncio.timeout(COMMAND_S):
            out, err = await process.communicate(stdin)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


@dataclass(slots=True, kw_only=True)
class Serving:
    """A running `pg-gateway serve --http`."""

    url: str
    process: Process
    log_file: Path = field(repr=False)

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    @property
    def base(self) -> str:
        """The address without the path."""
        return self.url.removesuffix("/mcp")

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit code; one that does not end within END_S raises TimeoutError."""
        self.process.send_signal(number)
        async with asyncio.timeout(END_S):
            return await self.process.wait()


@asynccontextmanager
async def serving(
    config: Path, *options: str, address: str = "127.0.0.1:0", environ: Mapping[str, str] | None = None
) -> AsyncIterator[Serving]:
    """Run `pg-gateway serve --http` on a free port; it is ended, by force if need be, at the end."""
    log_file = config.parent / f"serve-{os.urandom(4).hex()}.log"
    with log_file.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command("serve", "--http", address, "--config", str(config), *options),
            stdin=DEVNULL,
            stdout=log,
            stderr=log,
            env=environment() if environ is None else dict(environ),
        )
    try:
        found: list[str] = []

        def is_up() -> bool:
            found[:] = _SERVING.findall(log_file.read_text(errors="replace"))
            return bool(found) or process.returncode is not None

        assert await until(is_up, within_s=START_S), f"it did not start: {log_file.read_text()}"
        assert found, f"it ended with {process.returncode}: {log_file.read_text()}"
        yield Serving(url=found[0], process=process, log_file=log_file)
    finally:
        if process.returncode is None:
            process.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_S):
                    await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()
