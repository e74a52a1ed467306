"""A small process that owns a throw-away folder and the programs that run in it, and ends both with its parent.

`embedded_process.py` starts it as a script of its own, so it needs nothing but the standard library. It holds the
reading end of a pipe whose other end only the parent has: when that is gone, for whatever reason (also `kill -9`), it
stops what it started, removes the folder and leaves. Both sides speak JSON, one object per line; `->` is towards it:

    <- {"folder": PATH} or {"error": TEXT}                    once, first
    -> {"request": N, "argv": [...], "env": {...}, "log": PATH, "user": UID or null, "group": GID or null}
    <- {"request": N, "pid": PID} or {"request": N, "error": TEXT}
    <- {"pid": PID, "exit_code": CODE}                        when that program has ended
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

STOP_S = 6.0  # an immediate stop of PostgreSQL kills what is left of its children after 5 s
REMOVE_S = 5.0


def family(pid: int) -> list[int]:
    """Return the process and all that descend from it, the eldest first."""
    children: dict[int, list[int]] = {}
    for child, parent in _parents():
        children.setdefault(parent, []).append(child)
    found = [pid]
    for member in found:  # grows while it is read: children of children
        found.extend(children.get(member, ()))
    return found


def _parents() -> list[tuple[int, int]]:
    proc = Path("/proc")
    if not (proc / "self" / "stat").exists():
        listing = subprocess.run(
            ["/bin/ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
        ).stdout
        return [(int(pid), int(parent)) for pid, parent in map(str.split, listing.splitlines())]
    pairs = []
    for entry in proc.iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):  # it ended meanwhile
                # The program's name stands in parentheses and may contain anything; after it: state, parent.
                pairs.append((int(entry.name), int((entry / "stat").read_text().rpartition(")")[2].split()[1])))
    return pairs


def send(pids: list[int], signal_number: signal.Signals) -> None:
    """Send a signal to each process that still exists."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal_number)


def ask_to_end(pid: int) -> None:
    """Stop a server at once: unlike a kill it leaves no shared memory behind."""
    send([pid], signal.SIGQUIT)
    send(family(pid), signal.SIGCONT)  # a paused one would not hear it


def say(message: dict[str, Any]) -> None:
    """Tell the parent. That it is gone is no fault: its end is noticed by the other pipe."""
    with contextlib.suppress(BrokenPipeError):
        os.write(1, json.dumps(message).encode() + b"\n")


class Guardian:
    def __init__(self, *, inside: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="pg-gateway-", dir=inside))
        self._children: list[subprocess.Popen[bytes]] = []
        self._output = threading.Lock()  # keeps lines whole: each child is awaited in a thread of its own
        self._say({"folder": str(self._folder)})

    def serve(self) -> None:
        """Obey the parent until it is gone."""
        for line in sys.stdin.buffer:
            request = json.loads(line)
            try:
                child = self._start(request)
            except (OSError, ValueError, subprocess.SubprocessError) as error:
                self._say({"request": request["request"], "error": str(error)})
                continue
            self._children.append(child)
            self._say({"request": request["request"], "pid": child.pid})
            threading.Thread(target=self._await, args=(child,), daemon=True).start()

    def end(self) -> None:
        """Stop every child within STOP_S, the hard way if need be, and remove the folder."""
        for child in self._children:
            if child.poll() is None:
                ask_to_end(child.pid)
        give_up = time.monotonic() + STOP_S
        for child in self._children:
            try:
                child.wait(max(0.0, give_up - time.monotonic()))
            except subprocess.TimeoutExpired:
                send(family(child.pid), signal.SIGKILL)
                child.wait()
        give_up = time.monotonic() + REMOVE_S
        while self._folder.exists() and time.monotonic() < give_up:
            shutil.rmtree(self._folder, ignore_errors=True)  # a straggler may have written meanwhile: once more
            if self._folder.exists():
                time.sleep(0.05)

    def _start(self, request: dict[str, Any]) -> subprocess.Popen[bytes]:
        user, group = request["user"], request["group"]
        with Path(request["log"]).open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - the parent's own argument list
                request["argv"],
                env=request["env"],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=user,
                group=group,
                extra_groups=None if user is None else [],
                start_new_session=True,
            )

    def _await(self, child: subprocess.Popen[bytes]) -> None:
        self._say({"pid": child.pid, "exit_code": child.wait()})

    def _say(self, message: dict[str, Any]) -> None:
        with self._output:
            say(message)


def main() -> None:
    # Handlers, not SIG_IGN: the children would inherit that. A Ctrl-C is for the parent, which then closes the pipe.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGHUP, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    os.umask(0o077)  # a server's log may quote a statement with a secret
    try:
        guardian = Guardian(inside=sys.argv[1])
    except OSError as error:
        say({"error": str(error)})
        return
    try:
        guardian.serve()
    except ValueError:  # half a line: the parent died while it wrote
        pass
    finally:
        signal.signal(signal.SIGTERM, lambda *_: None)
        guardian.end()


if __name__ == "__main__":
    main()
