"""One request over HTTP and its answer: JSON, or server-sent events once there is progress to tell.

A client that goes away cancels its call, whatever the answer would have been. In the eras with a handshake, clients
keep the connection open and cancel by a message of its own: the session's id, handed out at `initialize`, says whose
request such a message means. It is all that there is to a session.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
import orjson
from mcp.server.connection import Connection
from mcp.server.lowlevel import Server
from mcp.server.runner import modern_error_data, serve_one
from mcp.server.streamable_http import MCP_SESSION_ID_HEADER, REQUEST_CANCELLED
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import NoBackChannelError
from mcp.shared.inbound import ERROR_CODE_HTTP_STATUS
from mcp.shared.jsonrpc_dispatcher import cancelled_request_id_from_params, progress_token_from_params
from mcp.shared.message import MessageMetadata, ServerMessageMetadata
from mcp.shared.transport_context import TransportContext
from mcp_types import ErrorData, JSONRPCRequest, ProgressToken, RequestId
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.requests import Request
from starlette.types import Receive, Send

logger = logging.getLogger(__name__)

_WATCH_AFTER_S: Final = 0.05
_SESSION: Final = MCP_SESSION_ID_HEADER.encode()
JSON: Final = [(b"content-type", b"application/json")]
_EVENTS: Final = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]


async def reply(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    """Send a whole response; JSON, unless the headers say otherwise."""
    fields = [*(JSON if headers is None else headers), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


def error_body(request_id: RequestId | None, error: ErrorData) -> bytes:
    """Return the JSON of an error of the protocol."""
    data = error.model_dump(mode="json", by_alias=True, exclude_none=True)
    return orjson.dumps({"jsonrpc": "2.0", "id": request_id, "error": data})


async def refuse(
    send: Send, request_id: RequestId | None, code: int, message: str, data: Any = None, *, status: int | None = None
) -> None:
    """Send an error of the protocol, with the HTTP status that goes with its code."""
    status = status or ERROR_CODE_HTTP_STATUS.get(code, 400)
    await reply(send, status, error_body(request_id, ErrorData(code=code, message=message, data=data)))


@dataclass
class _Events:
    """The response as server-sent events, begun with the first one."""

    send: Send
    is_open: bool = False

    async def write(self, message: bytes, *, last: bool = False) -> None:
        if not self.is_open:
            await self.send({"type": "http.response.start", "status": 200, "headers": _EVENTS})
            # Not before: who is cancelled while the client does not read has sent nothing.
            self.is_open = True
        event = b"event: message\r\ndata: " + message + b"\r\n\r\n"
        await self.send({"type": "http.response.body", "body": event, "more_body": not last})


@dataclass
class _Exchange:
    """One request's `DispatchContext`: it may be told of progress, and can be asked nothing."""

    transport: TransportContext
    request_id: RequestId
    message_metadata: MessageMetadata
    progress_token: ProgressToken | None
    events: _Events | None
    cancel_requested: anyio.Event = field(default_factory=anyio.Event)
    can_send_request: bool = False

    async def send_raw_request(
        self,
        method: str,
        params: Mapping[str, Any] | None,  # noqa: ARG002 - the protocol's signature
        opts: CallOptions | None = None,  # noqa: ARG002 - the protocol's signature
    ) -> dict[str, Any]:
        raise NoBackChannelError(method)

    async def notify(
        self,
        method: str,
        params: Mapping[str, Any] | None,
        opts: CallOptions | None = None,  # noqa: ARG002 - the protocol's signature
    ) -> None:
        if self.events is not None:
            await self.events.write(orjson.dumps({"jsonrpc": "2.0", "method": method, "params": params}))

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        if self.progress_token is None:
            return
        told = {"progressToken": self.progress_token, "progress": progress, "total": total, "message": message}
        await self.notify("notifications/progress", {k: v for k, v in told.items() if v is not None})


def _cancelled(request_id: RequestId) -> bytes:
    # The eras with a handshake end a response with an answer only; clients ignore this one.
    return error_body(request_id, ErrorData(code=REQUEST_CANCELLED, message="Request cancelled"))


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Exchanges:
    """The requests that are being answered."""

    def __init__(self, server: Server[Any]) -> None:
        self._server = server
        # By session and request: what a message can cancel.
        self._running: dict[tuple[str, RequestId], asyncio.Task[tuple[int, bytes]]] = {}

    def cancel(self, request: Request, params: Any) -> None:
        """Cancel the request of the same session that a `notifications/cancelled` names, if it still runs."""
        session = request.headers.get(MCP_SESSION_ID_HEADER)
        cancelled = cancelled_request_id_from_params(params) if isinstance(params, Mapping) else None
        if session is None or cancelled is None:
            return
        work = self._running.get((session, cancelled))
        if work is not None:
            logger.info("cancelled by the client: request %r", cancelled)
            work.cancel()

    async def answer(
        self,
        request: Request,
        message: JSONRPCRequest,
        connection: Connection,
        *,
        takes_events: bool,
        receive: Receive,
        send: Send,
    ) -> None:
        """Run a request and send what comes of it; it ends with the client, or when the client cancels it."""
        token = progress_token_from_params(message.params)
        events = _Events(send) if token is not None and takes_events else None
        exchange = _Exchange(
            transport=TransportContext(kind="streamable-http", can_send_request=False, headers=request.headers),
            request_id=message.id,
            message_metadata=ServerMessageMetadata(request_context=request),
            progress_token=token if events is not None else None,
            events=events,
        )
        has_handshake = connection.protocol_version in HANDSHAKE_PROTOCOL_VERSIONS
        session = request.headers.get(MCP_SESSION_ID_HEADER) if has_handshake else None
        work = asyncio.create_task(self._run(message, exchange, connection))
        if session is not None:
            self._running[session, message.id] = work
        watch: asyncio.Task[None] | None = None
        try:
            # Most calls are over before a client could have second thoughts.
            await asyncio.wait((work,), timeout=_WATCH_AFTER_S)
            if not work.done():
                watch = asyncio.create_task(_gone(receive))
                await asyncio.wait((work, watch), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                logger.info("client went away: %s is cancelled", message.method)
                return
            status, body = (200, _cancelled(message.id)) if work.cancelled() else work.result()
            if events is not None and events.is_open:
                await events.write(body, last=True)
            elif has_handshake and message.method == "initialize" and status == 200:  # noqa: PLR2004 - HTTP's own
                await reply(send, status, body, [*JSON, (_SESSION, secrets.token_hex(16).encode())])
            else:
                await reply(send, status, body)
        finally:
            if session is not None and self._running.get((session, message.id)) is work:
                del self._running[session, message.id]
            for task in (work, watch):
                if task is not None and not task.done():
                    task.cancel()
                    await asyncio.wait((task,))

    async def _run(self, message: JSONRPCRequest, exchange: _Exchange, connection: Connection) -> tuple[int, bytes]:
        """Return the HTTP status and the JSON-RPC reply."""
        try:
            result = await serve_one(
                self._server, exchange, message.method, message.params, connection=connection, lifespan_state={}
            )
        except Exception as error:  # noqa: BLE001 - the last place before the wire; the SDK says what may be told
            data = modern_error_data(error)
            is_modern = connection.protocol_version not in HANDSHAKE_PROTOCOL_VERSIONS
            status = ERROR_CODE_HTTP_STATUS.get(data.code, 200) if is_modern else 200
            return status, error_body(message.id, data)
        return 200, orjson.dumps({"jsonrpc": "2.0", "id": message.id, "result": result})
