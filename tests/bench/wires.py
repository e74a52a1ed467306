"""Lean MCP clients: JSON-RPC over a child's pipes and over kept-alive HTTP, with as little of their own as possible.

What they cost is in every number of the bench, so nothing is parsed that need not be.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import orjson

Arguments = Mapping[str, Any]
Call = Callable[[str, Arguments], Awaitable[bytes]]

HANDSHAKE_VERSION: Final = "2025-11-25"
ENVELOPE_VERSION: Final = "2026-07-28"
HOST: Final = "127.0.0.1"
_ANSWER_S: Final = 30.0
_LINE_BYTES: Final = 64 * 1024 * 1024
_ID: Final = re.compile(rb'\{"jsonrpc":"2.0","id":(\d+),"(result|error)"')
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_META: Final = {
    "io.modelcontextprotocol/protocolVersion": ENVELOPE_VERSION,
    "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


class CallFailed(Exception):
    """An answer that is an error: the numbers of a run with errors mean nothing."""


def checked(reply: bytes) -> bytes:
    """Return the reply unless it is an error, of the protocol or of the tool."""
    if b'"isError":true' in reply or b'"error":{' in reply[:80]:
        raise CallFailed(reply[:600].decode(errors="replace"))
    return reply


class StdioClient:
    """One server as a child process, spoken to over its pipes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process = process
        self._stdin, self._stdout = process.stdin, process.stdout
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._next_id = 0
        self._reader = asyncio.get_running_loop().create_task(self._read())

    async def _read(self) -> None:
        try:
            while line := await self._stdout.readline():
                found = _ID.match(line)
                number = int(found[1]) if found else orjson.loads(line).get("id")
                if (future := self._waiting.pop(number, None)) is not None and not future.done():
                    future.set_result(line)
        finally:
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(CallFailed("the server closed its output"))

    async def request(self, method: str, params: Arguments | None = None) -> bytes:
        """Return the line that answers a request."""
        self._next_id += 1
        number = self._next_id
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        self._stdin.write(
            orjson.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params or {}}) + b"\n"
        )
        return await future

    async def handshake(self) -> None:
        """Open the session, as a client of the handshake era does."""
        client = {"name": "bench", "version": "1"}
        async with asyncio.timeout(_ANSWER_S):
            checked(
                await self.request(
                    "initialize", {"protocolVersion": HANDSHAKE_VERSION, "capabilities": {}, "clientInfo": client}
                )
            )
        self._stdin.write(b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n')

    async def call(self, tool: str, arguments: Arguments) -> bytes:
        """Call a tool and return the whole reply."""
        return checked(await self.request("tools/call", {"name": tool, "arguments": arguments}))

    async def close(self) -> None:
        """End the child by closing its input, by force if that does not help."""
        self._stdin.close()
        try:
            async with asyncio.timeout(10):
                await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
        await self._reader


@contextlib.asynccontextmanager
async def stdio_server(argv: Sequence[str], *, environ: Mapping[str, str], folder: Path) -> AsyncIterator[StdioClient]:
    """Start a server on pipes and open a session; what it logs goes to a file of `folder`."""
    with (folder / "stdio.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            env=environ,
            cwd=folder,
            limit=_LINE_BYTES,
        )
    client = StdioClient(process)
    try:
        await client.handshake()
        yield client
    finally:
        await client.close()


class HttpClient:
    """One kept-alive connection, opened again where the server ended it while it was idle."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._next_id = 0
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return the streams of a connection that is alive."""
        if self._streams is not None and self._streams[0].at_eof():
            self.close()
        if self._streams is None:
            self._streams = await asyncio.open_connection(HOST, self._port, limit=_LINE_BYTES)
        return self._streams

    async def request(self, method: str, params: dict[str, Any], *, name: str | None = None) -> bytes:
        """Return the body that answers a request, in the envelope form of the protocol."""
        reader, writer = await self.open()
        self._next_id += 1
        body = orjson.dumps(
            {"jsonrpc": "2.0", "id": self._next_id, "method": method, "params": {**params, "_meta": _META}}
        )
        head = (
            f"POST /mcp HTTP/1.1\r\nHost: {HOST}:{self._port}\r\nContent-Type: application/json\r\n"
            f"Accept: application/json, text/event-stream\r\nMCP-Protocol-Version: {ENVELOPE_VERSION}\r\n"
            f"Mcp-Method: {method}\r\n"
            + (f"Mcp-Name: {name}\r\n" if name else "")
            + f"Content-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        answer_head = await reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(answer_head)
        if length is None:
            raise CallFailed(f"an answer without a length: {answer_head.decode(errors='replace')}")
        return await reader.readexactly(int(length[1]))

    async def call(self, tool: str, arguments: Arguments) -> bytes:
        """Call a tool and return the whole reply."""
        return checked(await self.request("tools/call", {"name": tool, "arguments": arguments}, name=tool))

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class HttpServer:
    """A server as a child process, and connections to it."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.port = port
        self.clients: list[HttpClient] = []

    async def connect(self) -> HttpClient:
        """Open one more connection; all are closed with the server."""
        client = HttpClient(self.port)
        await client.open()
        self.clients.append(client)
        return client

    async def ready(self) -> None:
        """Wait until the server takes connections."""
        give_up = time.monotonic() + _ANSWER_S
        while True:
            try:
                await self.connect()
            except OSError:
                if self.process.returncode is not None or time.monotonic() > give_up:
                    raise
                await asyncio.sleep(0.02)
            else:
                return

    async def close(self) -> None:
        """End the child, by force if a request does not help."""
        for client in self.clients:
            client.close()
        if self.process.returncode is None:
            self.process.terminate()
        try:
            async with asyncio.timeout(10):
                await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()


def free_port() -> int:
    """Return a port of this machine that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.asynccontextmanager
async def http_server(argv: Sequence[str], *, environ: Mapping[str, str], folder: Path) -> AsyncIterator[HttpServer]:
    """Start a server whose arguments hold `{port}` and wait until it takes connections."""
    port = free_port()
    with (folder / "http.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *(word.replace("{port}", str(port)) for word in argv), stdout=log, stderr=log, env=environ, cwd=folder
        )
    server = HttpServer(process, port)
    try:
        await server.ready()
        yield server
    finally:
        await server.close()


def child_environ(bytecode: Path) -> dict[str, str]:
    """Return the environment of the servers: byte code is kept, as it is where a package is installed."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "DB_", "DATABASE_"))}
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    return {**environ, "PYTHONPYCACHEPREFIX": str(bytecode), "PYTHONUNBUFFERED": "1"}
