"""The wires: MCP over stdin and stdout, on asyncio pipes of our own.

The SDK's stdio transport hands every line through two threads, which costs more than all the rest of a small call.
Where the descriptors are no pipes (files, terminals, Windows) it serves all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import sys
from collections import deque
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Any, Final, Self

import anyio
import orjson
from mcp.server.lowlevel import Server
from mcp.server.runner import serve_dual_era_loop, serve_loop
from mcp.server.stdio import stdio_server
from mcp.shared.message import SessionMessage
from mcp_types import (
    INVALID_REQUEST,
    PARSE_ERROR,
    PROTOCOL_VERSION_META_KEY,
    ErrorData,
    JSONRPCError,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
    jsonrpc_message_adapter,
)
from pydantic import ValidationError

logger = logging.getLogger(__name__)

# Ours or the SDK's, which names the type of its own in a private module only.
AnyStream = Any

# A client that says so much before it asks anything is none.
_FRAMES_BEFORE: Final = 8
_LINE_BYTES: Final = 16 * 1024 * 1024
# A client that closes its end of a pipe seldom waits for more; a shell's `printf … | pg-gateway serve` does. Within a
# second, what nobody waits for is to be ended in the database, too.
_LAST_ANSWERS_S: Final = 0.75


def encode_message(message: Any) -> bytes:
    """Return a JSON-RPC message as bytes; results may hold finished JSON."""
    if isinstance(message, JSONRPCResponse):
        return orjson.dumps({"jsonrpc": "2.0", "id": message.id, "result": message.result})
    return orjson.dumps(message.model_dump(mode="json", by_alias=True, exclude_unset=True))


class _Stream:
    """What the SDK's loop does with either end of a wire besides reading or writing."""

    async def aclose(self) -> None:
        """Nothing to close: the descriptor outlives the loop."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        await self.aclose()
        return None


class PipeReader(_Stream):
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
                await self._skip_line(error.consumed)
                return ValueError(f"a message is longer than {_LINE_BYTES} bytes")
            if not line.strip():
                continue
            try:
                return SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
            except ValueError as error:
                return error

    async def _skip_line(self, seen: int) -> None:
        """Drop a line whose first `seen` bytes are buffered: what follows in it must not pass for messages."""
        while True:
            await self._reader.readexactly(seen)
            try:
                await self._reader.readuntil(b"\n")
            except asyncio.LimitOverrunError as error:
                seen = error.consumed
            except asyncio.IncompleteReadError:
                return
            else:
                return

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        return await self.receive()


class PipeWriter(_Stream):
    """Our messages, one a line."""

    def __init__(self, writer: asyncio.StreamWriter, gone: asyncio.Event) -> None:
        self._writer = writer
        self._gone = gone

    async def send(self, item: SessionMessage, /) -> None:
        """Write one message whole; waits when the client does not read."""
        if self._writer.is_closing():
            raise anyio.BrokenResourceError
        self._writer.write(encode_message(item.message) + b"\n")
        try:
            await self._writer.drain()
        except ConnectionError:
            raise anyio.BrokenResourceError from None

    @property
    def is_closed(self) -> bool:
        """Whether the pipe was found closed."""
        return self._writer.is_closing() or self._gone.is_set()

    async def reader_gone(self) -> None:
        """Wait until nobody reads what is written any more."""
        await self._gone.wait()


class Unanswered:
    """The requests that have no answer yet."""

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._changed = asyncio.Event()

    def heard(self, message: Any) -> None:
        """Take note of what the client sent."""
        if isinstance(message, JSONRPCRequest):
            self._ids.add(str(message.id))
        elif isinstance(message, JSONRPCNotification) and message.method == "notifications/cancelled":
            # Nobody waits for these any more.
            self._ids.discard(str((message.params or {}).get("requestId")))

    def told(self, message: Any) -> None:
        """Take note of what the client was sent."""
        if isinstance(message, JSONRPCResponse | JSONRPCError):
            self._ids.discard(str(message.id))
            self._changed.set()

    async def none_left(self) -> None:
        """Wait until all are answered."""
        while self._ids:
            self._changed.clear()
            await self._changed.wait()


class PatientReader(_Stream):
    """A client's messages; the end of them is held back until what it asked for is answered.

    The SDK's loop drops a line that is no message and breaks off all calls at the end. Here the line is answered by
    an error, and the calls have `last_answers_s` left (None: as long as they take), while the client has not gone away
    altogether.
    """

    def __init__(self, inner: AnyStream, writer: PatientWriter, *, last_answers_s: float | None) -> None:
        self._inner = inner
        self._writer = writer
        self._last_answers_s = last_answers_s
        self._held: deque[SessionMessage | Exception] = deque()
        # Whether this is a connection by handshake, on which no request carries an envelope.
        self._by_handshake = False

    async def opening(self) -> JSONRPCRequest | None:
        """Return the client's first request, which decides the protocol's era; it is still to be received."""
        with contextlib.suppress(StopAsyncIteration):
            while len(self._held) < _FRAMES_BEFORE:
                item = await self._next()
                self._held.append(item)
                if isinstance(item, SessionMessage) and isinstance(item.message, JSONRPCRequest):
                    self._by_handshake = item.message.method == "initialize"
                    return item.message
        return None

    async def receive(self) -> SessionMessage | Exception:
        """Return the next message; raises StopAsyncIteration at the end."""
        return self._held.popleft() if self._held else await self._next()

    async def _next(self) -> SessionMessage | Exception:
        while True:
            try:
                item = await self._inner.__anext__()
            except StopAsyncIteration:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._last_answers_s):
                        await self._writer.unanswered.none_left()
                raise
            if isinstance(item, SessionMessage):
                self._writer.unanswered.heard(item.message)
                wrong = _wrong_era(item.message) if self._by_handshake else None
                if wrong is None:
                    return item
                await self._writer.send(SessionMessage(wrong))
                continue
            if (refusal := _malformed(item)) is not None:
                logger.warning("a line on stdin is no MCP message")
                await self._writer.send(SessionMessage(refusal))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        return await self.receive()

    async def aclose(self) -> None:
        await self._inner.aclose()


class PatientWriter(_Stream):
    """Our messages, with a note of what they answer."""

    def __init__(self, inner: AnyStream) -> None:
        self._inner = inner
        self.unanswered = Unanswered()

    async def send(self, item: SessionMessage, /) -> None:
        """Write one message."""
        await self._inner.send(item)
        self.unanswered.told(item.message)

    async def aclose(self) -> None:
        await self._inner.aclose()


def _wrong_era(message: Any) -> JSONRPCError | None:
    """Return the answer to a request of the era without handshake on a connection that began with one, else None."""
    meta = (message.params or {}).get("_meta") if isinstance(message, JSONRPCRequest) else None
    if not isinstance(meta, dict) or PROTOCOL_VERSION_META_KEY not in meta:
        return None
    text = "this connection was opened by the handshake; requests with an envelope need a connection of their own"
    return JSONRPCError(jsonrpc="2.0", id=message.id, error=ErrorData(code=INVALID_REQUEST, message=text))


def _malformed(error: Exception) -> JSONRPCError | None:
    """Return the answer to a line that is no message, None for an empty one; which id it had cannot be known."""
    code, message = PARSE_ERROR, f"Parse error: {error}"
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        if first["type"] != "json_invalid":
            code, message = INVALID_REQUEST, "Not a single JSON-RPC request, notification or response"
        elif not first["input"].strip():
            return None
        else:
            message = "Parse error: one JSON message a line is expected"
    return JSONRPCError(jsonrpc="2.0", id=None, error=ErrorData(code=code, message=message))


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
        # Copies, since uvloop closes what it was given when the pipe breaks.
        yield os.dup(private_in), os.dup(private_out)
    finally:
        os.dup2(private_in, 0)
        os.dup2(private_out, 1)
        os.close(private_in)
        os.close(private_out)
        # asyncio made them non-blocking for whoever shares them.
        os.set_blocking(0, True)
        os.set_blocking(1, True)


@contextlib.contextmanager
def _reader_watched(out_fd: int) -> Iterator[asyncio.Event]:
    """Yield what is set once nobody reads from the other end; uvloop finds out only when it writes."""
    loop, gone = asyncio.get_running_loop(), asyncio.Event()
    own_fd = os.dup(out_fd)

    def look() -> None:
        loop.remove_reader(own_fd)
        poll = select.poll()
        poll.register(own_fd, 0)
        # Of a socket it may only be the other direction that is closed.
        if poll.poll(0):
            gone.set()

    loop.add_reader(own_fd, look)
    try:
        yield gone
    finally:
        loop.remove_reader(own_fd)
        os.close(own_fd)


@contextlib.asynccontextmanager
async def _pipes(in_fd: int, out_fd: int) -> AsyncIterator[tuple[PipeReader, PipeWriter]]:
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader(limit=_LINE_BYTES)
    inward, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), os.fdopen(in_fd, "rb", buffering=0, closefd=False)
    )
    outward, flow = await loop.connect_write_pipe(
        lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()),
        os.fdopen(out_fd, "wb", buffering=0, closefd=False),
    )
    try:
        with _reader_watched(out_fd) as gone:
            yield PipeReader(lines), PipeWriter(asyncio.StreamWriter(outward, flow, None, loop), gone)
    finally:
        inward.close()
        # What a client that went away has not read would keep the loop open.
        outward.abort()


def _are_pipes() -> bool:
    import stat

    if sys.platform == "win32":
        return False
    modes = [os.fstat(fd).st_mode for fd in (0, 1)]
    # Event loops refuse files, and uvloop aborts the process over /dev/null.
    return all(stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) for mode in modes)


async def _serve(
    server: Server[Any],
    reader: AnyStream,
    writer: AnyStream,
    *,
    last_answers_s: float | None,
) -> None:
    patient = PatientWriter(writer)
    messages = PatientReader(reader, patient, last_answers_s=last_answers_s)
    opening = await messages.opening()
    # Which of the two begins is known here; the loop for both would hand every message through one more task.
    serve = serve_loop if opening is not None and opening.method == "initialize" else serve_dual_era_loop
    options = server.create_initialization_options()
    await serve(server, messages, patient, lifespan_state={}, init_options=options)


async def _end(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def serve_stdio(server: Server[Any], plain: Server[Any]) -> None:
    """Serve one client on stdin and stdout until it closes stdin; then what it has asked for is still answered.

    server: one whose results are finished JSON; plain: the same for the SDK's transport, where there are no pipes.
    """
    if not _are_pipes():
        async with stdio_server() as (read, write):
            await _serve(plain, read, write, last_answers_s=None)
        return
    with _own_descriptors() as (in_fd, out_fd):
        async with _pipes(in_fd, out_fd) as (reader, writer):
            work = asyncio.create_task(_serve(server, reader, writer, last_answers_s=_LAST_ANSWERS_S))
            gone = asyncio.create_task(writer.reader_gone())
            try:
                await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
                if work.done() and not writer.is_closed:
                    work.result()
                else:
                    # The loop may fail on the closed pipe before the pipe is known to be closed.
                    logger.info("the client went away")
            finally:
                await _end(work, gone)
