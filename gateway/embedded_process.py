"""Our end of the guardian: programs that run in a throw-away folder and end with this process.

What the guardian does, and the words exchanged, are in `embedded_guardian.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Self

from gateway import embedded_guardian
from gateway.embedded_account import Account
from gateway.errors import ConfigError


class Process:
    """A program that the guardian runs."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def is_alive(self) -> bool:
        return not self.ended.done()

    async def exit_code(self) -> int:
        """Wait for its end, without a bound of our own; negative is the number of a signal."""
        return await asyncio.shield(self.ended)  # a waiter that gives up must not cancel it for the others


class Guardian:
    """A guardian process with its folder; made by `watch`."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self.folder = folder
        self._process = process
        self._requests: dict[int, asyncio.Future[Process]] = {}
        self._numbers = itertools.count()
        self._running: dict[int, Process] = {}

    @classmethod
    @contextlib.asynccontextmanager
    async def watch(cls, inside: str) -> AsyncIterator[Self]:
        """Start a guardian with a new folder below `inside`; both are gone at the end, and all that runs there."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-I", "-S", embedded_guardian.__file__, inside),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,  # a Ctrl-C at the terminal is not for it
        )
        try:
            first = json.loads(await _line(process) or b'{"error": "it ended at once"}')
            if "error" in first:
                raise ConfigError([f"the guardian of a throw-away server did not start: {first['error']}"])
            guardian = cls(process, Path(first["folder"]))
            listener = asyncio.create_task(guardian._listen())
            try:
                yield guardian
            finally:
                _input(process).close()
                await listener  # ends with the guardian: it bounds its own work
                await asyncio.to_thread(guardian._clear)
        finally:
            _input(process).close()
            await process.wait()

    async def run(self, argv: list[str], *, log: Path, account: Account | None) -> Process:
        """Start a program inside the folder, under the account if there is one."""
        number = next(self._numbers)
        request = {
            "request": number,
            "argv": argv,
            "env": {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},  # no PGDATA and the like of the caller's
            "log": str(log),
            "user": None if account is None else account.uid,
            "group": None if account is None else account.gid,
        }
        reply: asyncio.Future[Process] = asyncio.get_running_loop().create_future()
        self._requests[number] = reply
        _input(self._process).write(json.dumps(request).encode() + b"\n")
        return await reply

    async def _listen(self) -> None:
        while line := await _line(self._process):
            message = json.loads(line)
            if "exit_code" in message:
                self._running.pop(message["pid"]).ended.set_result(message["exit_code"])
                continue
            reply = self._requests.pop(message["request"])
            if "pid" in message:
                self._running[message["pid"]] = started = Process(message["pid"])
            if reply.cancelled():  # nobody waits any more; what was started still ends with the folder
                continue
            if "pid" in message:
                reply.set_result(started)
            else:
                reply.set_exception(ConfigError([f"a program of PostgreSQL could not be started: {message['error']}"]))
        for reply in self._requests.values():
            if not reply.done():
                reply.set_exception(ConfigError(["the guardian of a throw-away server was killed"]))

    def _clear(self) -> None:
        """Do the guardian's last work where it was killed itself; else there is nothing left to do."""
        give_up = time.monotonic() + embedded_guardian.STOP_S
        for pid in self._running:
            embedded_guardian.ask_to_end(pid)
            # Its parent is gone, so nobody tells us when it ends; the file with its number goes with it.
            while (self.folder / "data" / "postmaster.pid").exists() and time.monotonic() < give_up:
                time.sleep(0.01)
            embedded_guardian.send(embedded_guardian.family(pid), signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)


def _input(process: asyncio.subprocess.Process) -> asyncio.StreamWriter:
    assert process.stdin is not None  # noqa: S101 - `watch` asked for a pipe
    return process.stdin


async def _line(process: asyncio.subprocess.Process) -> bytes:
    assert process.stdout is not None  # noqa: S101 - `watch` asked for a pipe
    return await process.stdout.readline()
