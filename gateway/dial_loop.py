"""The event loop as the driver sees it through one connection's life.

asyncpg leaves three things to the loop that a gateway must hold in its own hands: where names are looked up (the
threads that everybody shares), which options the socket has before its first packet (none), and what stands before
the driver's protocol. The driver takes any loop; this one passes on all that it does not do itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final

import aiohappyeyeballs

from gateway.deadline import Stages
from gateway.profiles import Endpoint
from gateway.threads import Threads

# family, type, protocol, canonical name, address: what socket.getaddrinfo answers with.
Address = tuple[int, int, int, str, Any]
LookUp = Callable[[str, int], list[Any]]

# A link that went silent while a statement runs is given up after 15 s, which leaves the default call half of its time
# for another try. Azure's load balancer forgets an idle connection after 4 minutes, without a word to either side.
_KEEPALIVE: Final = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 3, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 10_000}
# RFC 8305, section 5: the next address is tried beside one that is silent for so long.
_NEXT_ADDRESS_S: Final = 0.25
# The kernel repeats a lost SYN after 1, 3, 7, 15 s: whoever waits for the third would notice a healed network late.
_CONNECT_S: Final = 3.0
_HEADER: Final = 5
_READY: Final = ord("Z")
# No message of a login is nearly as long (an error has a few hundred bytes): the driver would gather it in memory.
_LONGEST_GREETING: Final = 1 << 20


def look_up(host: str, port: int) -> list[Any]:
    """Return the addresses of a name. Blocks; raises socket.gaierror."""
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


def _socket(address: Address) -> socket.socket:
    """Return a socket whose kernel will notice a dead link: asyncpg's own has no keepalive (MagicStack/asyncpg#606)."""
    made = socket.socket(family=address[0], type=address[1], proto=address[2])
    with contextlib.suppress(OSError):
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):
                made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made


class _Greeting(asyncio.Protocol):
    """Stands before the driver's protocol until the server is ready for queries.

    The driver loops for ever over a message that is shorter than its own length field, and the whole process with it,
    and gathers one of any length in memory: whoever answers so is not PostgreSQL and is hung up on.
    """

    def __init__(self, behind: asyncio.Protocol, transport: asyncio.Transport | None = None) -> None:
        """Stand before `behind`. transport: where the connection is made already."""
        self._behind = behind
        self._transport = transport
        self._header = b""
        self._body = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment] # the loop gives a stream what it can write to
        self._behind.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        transport = self._transport
        if transport is None:
            return
        at, is_ready = 0, False
        while at < len(data):
            if self._body:
                step = min(self._body, len(data) - at)
                self._body -= step
                at += step
                continue
            step = min(_HEADER - len(self._header), len(data) - at)
            self._header += data[at : at + step]
            at += step
            if len(self._header) == _HEADER:
                length = int.from_bytes(self._header[1:], "big", signed=True)
                if not _HEADER - 1 <= length <= _LONGEST_GREETING:
                    self._transport = None
                    transport.abort()
                    return
                is_ready = self._header[0] == _READY
                self._header, self._body = b"", length - (_HEADER - 1)
        self._behind.data_received(data)
        if is_ready:
            transport.set_protocol(self._behind)

    def eof_received(self) -> bool | None:
        return self._behind.eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._behind.connection_lost(error)

    def pause_writing(self) -> None:
        self._behind.pause_writing()

    def resume_writing(self) -> None:
        self._behind.resume_writing()


def _greet(transport: asyncio.Transport) -> None:
    behind = transport.get_protocol()
    if isinstance(behind, asyncio.Protocol) and not transport.is_closing():
        transport.set_protocol(_Greeting(behind, transport))


class DialLoop:
    """The running loop, for one connection to `endpoint` and the cancel requests that follow it."""

    def __init__(
        self, endpoint: Endpoint, *, threads: Threads, stages: Stages, look_up: LookUp = look_up, is_encrypted: bool
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._endpoint = endpoint
        self._threads = threads
        self._stages = stages
        self._look_up = look_up
        self._is_encrypted = is_encrypted
        self._peer: Address | None = None
        self._is_greeted = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    @property
    def peer(self) -> str | None:
        """The address that was connected to, once there is one."""
        return None if self._peer is None else str(self._peer[4][0])

    async def _addresses(self, host: str, port: int) -> list[Address]:
        # A cancel request must reach the very server that runs the statement, whatever the name says by now.
        if self._peer is not None:
            return [self._peer]
        host, port = self._endpoint.via or (host, port)
        self._stages.enter("name look-up")
        found: list[Address] = await self._threads.run(self._look_up, host, port)
        return found

    async def create_connection(
        self, factory: Callable[[], asyncio.Protocol], host: str, port: int
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """Look the name up, connect to the first address that answers, and let the greeting stand before the driver.

        Raises what the look-up and the socket raise.
        """
        is_first = self._peer is None
        addresses = await self._addresses(host, port)
        if is_first:
            self._stages.enter("connect")
        async with asyncio.timeout(_CONNECT_S):
            connected = await aiohappyeyeballs.start_connection(
                addresses, happy_eyeballs_delay=_NEXT_ADDRESS_S, socket_factory=_socket
            )
        try:
            if is_first:
                remote = connected.getpeername()
                self._peer = next(
                    (found for found in addresses if found[4][:2] == remote[:2]),
                    (connected.family, connected.type, connected.proto, "", remote),
                )
                self._stages.enter("TLS" if self._is_encrypted else "login")
            behind = factory()
            before = behind if self._is_encrypted or not is_first else _Greeting(behind)
            transport, _ = await self._loop.create_connection(lambda: before, sock=connected)
        except BaseException:
            connected.close()
            raise
        return transport, behind

    async def create_unix_connection(
        self, factory: Callable[[], asyncio.Protocol], path: str
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """Connect to the Unix socket at `path`."""
        is_first = self._peer is None
        if is_first:
            self._stages.enter("connect")
        behind = factory()
        before = _Greeting(behind) if is_first else behind
        transport, _ = await self._loop.create_unix_connection(lambda: before, path)
        if is_first:
            self._peer = (socket.AF_UNIX, socket.SOCK_STREAM, 0, "", (path,))
            self._stages.enter("login")
        return transport, behind

    async def start_tls(
        self, transport: asyncio.Transport, protocol: asyncio.BaseProtocol, context: ssl.SSLContext, **options: Any
    ) -> asyncio.Transport | None:
        """Encrypt, and note that the login comes next."""
        encrypted = await self._loop.start_tls(transport, protocol, context, **options)
        if encrypted is not None and not self._is_greeted:
            self._is_greeted = True
            self._stages.enter("login")
            # The driver puts its own protocol there as soon as it has the transport, before the server can answer.
            self._loop.call_soon(_greet, encrypted)
        return encrypted
