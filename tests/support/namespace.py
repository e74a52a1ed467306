"""A network of a program's own: nothing but a loopback of its own, on which an address can fall silent.

`run_inside` starts a program of the tests in new network and mount namespaces and reads the JSON that it prints;
`Network` is what the program does there. Nothing outside is touched, and nothing is left behind. As root the namespaces
are ordinary ones; anybody else gets a user namespace, stays who they are and has the rights over the network only.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.missing import missing

_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
_SIOCSIFFLAGS, _IFF_UP_RUNNING = 0x8914, 0x41
_MS_BIND = 4096
_TRY_S = 10.0
_ROOT = Path(__file__).parents[2]


def _program(name: str) -> str:
    return shutil.which(name, path=_PATH) or name


def _unshare() -> list[str]:
    as_user = [] if os.geteuid() == 0 else ["--user", "--map-current-user", "--keep-caps"]
    return [_program("unshare"), *as_user, "--net", "--mount", "--"]


def needs_namespaces() -> None:
    """Skip the test where namespaces are not allowed, and where iptables is not there (with CI=true it fails then)."""
    if shutil.which("iptables", path=_PATH) is None:
        missing("iptables is not installed: scripts/get-iptables says how to get it")
    try:
        told = subprocess.run([*_unshare(), "true"], capture_output=True, text=True, check=False, timeout=_TRY_S)
    except OSError as error:
        pytest.skip(f"no network namespace of its own: {error}")
    if told.returncode != 0:
        pytest.skip(f"no network namespace of its own: {told.stderr.strip()}")


async def run_inside(module: str, *, within_s: float) -> Any:
    """Return what the module prints as JSON when it is run in a network of its own; fails with what it wrote else."""
    process = await asyncio.create_subprocess_exec(
        *_unshare(),
        *(sys.executable, "-m", module),
        cwd=_ROOT,
        env={**os.environ, "PATH": _PATH, "PYTHONWARNINGS": "error", "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(within_s):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, f"{module} ended with {process.returncode}: {err.decode()[-4000:]}"
    return orjson.loads(out)


@dataclass(frozen=True, slots=True)
class Network:
    """The network that the program is alone in."""

    @classmethod
    def up(cls) -> Network:
        """Switch the loopback on; 127.0.0.0/8 are its addresses.

        A packet that opens a connection is repeated after 1, 3 and 7 s, as by kernels before 6.5.
        """
        with contextlib.suppress(FileNotFoundError):
            Path("/proc/sys/net/ipv4/tcp_syn_linear_timeouts").write_text("0")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP_RUNNING))
        return cls()

    def is_quiet(self, address: str) -> bool:
        """Say whether all that was sent from or to the address has been acknowledged (proc(5), /proc/net/tcp)."""
        lines = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
        number = socket.inet_aton(address)[::-1].hex().upper()
        return not any(
            int(queues.partition(":")[0], 16) for _, here, there, _, queues, *_ in lines if number in here + there
        )

    async def silence(self, address: str) -> None:
        """Drop every packet from and to the address, those of open connections included."""
        await self._rules("-A", address)

    async def speak(self, address: str) -> None:
        """Let the packets through again."""
        await self._rules("-D", address)

    async def _rules(self, what: str, address: str) -> None:
        for way in ("-d", "-s"):
            # Dropped on arrival: what is dropped on the way out is an error that the sender is told of.
            argv = ["iptables", what, "INPUT", "-i", "lo", way, address, "-j", "DROP"]
            process = await asyncio.create_subprocess_exec(*argv, stderr=asyncio.subprocess.PIPE)
            _, err = await process.communicate()
            if process.returncode != 0:
                raise RuntimeError(f"{' '.join(argv)}: {err.decode()}")

    @contextlib.asynccontextmanager
    async def silent(self, address: str) -> AsyncIterator[None]:
        """Keep the address silent for a while."""
        await self.silence(address)
        try:
            yield
        finally:
            await self.speak(address)

    @contextlib.contextmanager
    def silent_name_server(self, folder: Path) -> Iterator[None]:
        """Have names asked for at a name server that takes every question and answers none."""
        resolv_conf = folder / "resolv.conf"
        resolv_conf.write_text("nameserver 127.0.0.1\noptions timeout:20 attempts:1\n")
        libc = ctypes.CDLL(None, use_errno=True)
        target = os.path.realpath("/etc/resolv.conf").encode()
        if libc.mount(bytes(resolv_conf), target, None, _MS_BIND, None) != 0:
            raise OSError(ctypes.get_errno(), "the name server could not be put in place")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as swallowing:
            swallowing.bind(("127.0.0.1", 53))
            yield
