"""The wires: MCP over stdin and stdout, on asyncio pipes of our own.

The SDK's stdio transport hands every line through two threads, which costs more than all the rest of a small call. Where
the descriptors are no pipes (files, Windows) it serves all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final, Self

import orjson
from mcp.server.lowlevel import Server
from mcp.server.runner import serve_dual_era_loop
from mcp.server.stdio import stdio_server
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCResponse, jsonrpc_message_adapter

logger = logging.getLogger(__name__)

_LINE_BYTES: Final = 16 * 1024 * 1024


def encode_message(message: Any) -> bytes:
    """Return a JSON-RPC message as bytes; results may hold finished JSON."""
    if isinstance(message, JSONRPCResponse):
        return orjson.dumps({"jsonrpc": "2.0", "id": message.id, "result": message.result})
    return orjson.dumps(message.model_dump(mode="json", by_alias=True, exclude_unset=True))


class PipeReader:
    """The client's messages, one a line, as the SDK's loop takes them."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    async def receive(self) -> SessionMessage | Exception:
        """Return the next message, or the error of a line that is none; raises StopAsyncIteration at the end."""
        while True:
            try:
                line = await self._reader.readuntil(b"\n")
            except asyncio.IncompleteReadError as error:
                line = error.partial
                if not line.strip():
                    raise StopAsyncIteration from None
            except asyncio.LimitOverrunError as error:
                await self._reader.readexactly(error.consumed)
                return ValueError(f"a message is longer than {_LINE_BYTES} bytes")
            if not line.strip():
                continue
            try:
                return SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
            except ValueError as error:
                return error

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        return await self.receive()

    async def aclose(self) -> None:
        """Nothing to close: the descriptor outlives the loop."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return None


class PipeWriter:
    """Our messages, one a line."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    async def send(self, item: SessionMessage, /) -> None:
        """Write one message whole; waits when the client does not read."""
        self._writer.write(encode_message(item.message) + b"\n")
        await self._writer.drain()

    async def aclose(self) -> None:
        """Nothing to close: the descriptor outlives the loop."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return None


@contextlib.contextmanager
def _own_descriptors() -> Iterator[tuple[int, int]]:
    """Yield private copies of stdin and stdout, while 0 reads nothing and 1 writes to stderr.

    Whatever a library or a child prints cannot fall into the protocol.
    """
    sys.stdout.flush()
    private_in, private_out = os.dup(0), os.dup(1)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    os.dup2(2, 1)
    try:
        yield private_in, private_out
    finally:
        os.dup2(private_in, 0)
        os.dup2(private_out, 1)
        # asyncio made them non-blocking for whoever shares them.
        os.set_blocking(0, True)
        os.set_blocking(1, True)


async def _pipes(in_fd: int, out_fd: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=_LINE_BYTES)
    protocol = asyncio.StreamReaderProtocol(reader)
    await loop.connect_read_pipe(lambda: protocol, os.fdopen(in_fd, "rb", buffering=0, closefd=False))
    transport, flow = await loop.connect_write_pipe(
        lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()),
        os.fdopen(out_fd, "wb", buffering=0, closefd=False),
    )
    return reader, asyncio.StreamWriter(transport, flow, None, loop)


def _are_pipes() -> bool:
    import stat

    if sys.platform == "win32":
        return False
    modes = [os.fstat(fd).st_mode for fd in (0, 1)]
    return all(stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode) for mode in modes)


async def serve_stdio(server: Server[Any], plain: Server[Any]) -> None:
    """Serve one client on stdin and stdout until it closes stdin.

    server: one whose results are finished JSON; plain: the same for the SDK's transport, where there are no pipes.
    """
    if not _are_pipes():
        async with stdio_server() as (read, write):
            await plain.run(read, write, plain.create_initialization_options())
        return
    with _own_descriptors() as (in_fd, out_fd):
        reader, writer = await _pipes(in_fd, out_fd)
        with contextlib.suppress(ConnectionError):
            await serve_dual_era_loop(
                server,
                PipeReader(reader),
                PipeWriter(writer),
                lifespan_state={},
                init_options=server.create_initialization_options(),
            )
