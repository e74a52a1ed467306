"""The wire over HTTP: stateless Streamable HTTP at `/mcp`, and `/healthz`.

Each POST is one request, answered with JSON, or by server-sent events once there is progress to tell a client that
asked for it. A client that goes away cancels its call in both. The checks and the protocol are the SDK's (`serve_one`);
what is ours is the way there: its own HTTP transport neither cancels a call answered with JSON nor takes a finished
result.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
import orjson
from mcp.server.connection import Connection
from mcp.server.lowlevel import Server
from mcp.server.runner import modern_error_data, serve_one
from mcp.server.streamable_http import check_accept_headers
from mcp.server.transport_security import TransportSecurityMiddleware, TransportSecuritySettings
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import NoBackChannelError
from mcp.shared.inbound import (
    ERROR_CODE_HTTP_STATUS,
    MCP_PROTOCOL_VERSION_HEADER,
    InboundLadderRejection,
    classify_inbound_request,
    find_duplicated_routing_header,
    unsupported_protocol_version_rejection,
)
from mcp.shared.jsonrpc_dispatcher import progress_token_from_params
from mcp.shared.message import MessageMetadata, ServerMessageMetadata
from mcp.shared.transport_context import TransportContext
from mcp_types import (
    DEFAULT_NEGOTIATED_VERSION,
    HEADER_MISMATCH,
    INVALID_REQUEST,
    PARSE_ERROR,
    ErrorData,
    JSONRPCRequest,
    ProgressToken,
    RequestId,
)
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

logger = logging.getLogger(__name__)

_WATCH_AFTER_S: Final = 0.05
BODY_BYTES: Final = 4 * 1024 * 1024
_JSON: Final = [(b"content-type", b"application/json")]
_EVENTS: Final = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]


async def _reply(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    fields = [*(_JSON if headers is None else headers), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


def _error_body(request_id: RequestId | None, error: ErrorData) -> bytes:
    data = error.model_dump(mode="json", by_alias=True, exclude_none=True)
    return orjson.dumps({"jsonrpc": "2.0", "id": request_id, "error": data})


async def _refuse(
    send: Send, request_id: RequestId | None, code: int, message: str, data: Any = None, *, status: int | None = None
) -> None:
    status = status or ERROR_CODE_HTTP_STATUS.get(code, 400)
    await _reply(send, status, _error_body(request_id, ErrorData(code=code, message=message, data=data)))


@dataclass
class _Events:
    """The response as server-sent events, begun with the first one."""

    send: Send
    is_open: bool = False

    async def write(self, message: bytes, *, last: bool = False) -> None:
        if not self.is_open:
            self.is_open = True
            await self.send({"type": "http.response.start", "status": 200, "headers": _EVENTS})
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


async def _read_body(request: Request) -> bytes | None:
    """Return the body, or None when it is too large."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > BODY_BYTES:
            return None
    return bytes(body)


class McpEndpoint:
    """The ASGI application at `/mcp`."""

    def __init__(self, server: Server[Any], *, security: TransportSecuritySettings) -> None:
        self._server = server
        self._security = TransportSecurityMiddleware(security)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        request = Request(scope, receive)
        refusal = await self._security.validate_request(request, is_post=request.method == "POST")
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        if request.method != "POST":
            # Stateless: there is no stream to listen on and no session to end.
            await Response(status_code=405, headers={"Allow": "POST"})(scope, receive, send)
            return
        takes_json, takes_events = check_accept_headers(request)
        if not takes_json:
            message = "Not Acceptable: the client must accept application/json"
            await _refuse(send, None, INVALID_REQUEST, message, status=406)
            return
        body = await _read_body(request)
        if body is None:
            await Response("Request body too large", status_code=413)(scope, receive, send)
            return
        try:
            decoded = orjson.loads(body)
        except ValueError:
            await _refuse(send, None, PARSE_ERROR, "Parse error")
            return
        await self._message(request, decoded, takes_events=takes_events, receive=receive, send=send)

    async def _message(
        self, request: Request, decoded: Any, *, takes_events: bool, receive: Receive, send: Send
    ) -> None:
        version = request.headers.get(MCP_PROTOCOL_VERSION_HEADER)
        is_modern = version is not None and version not in HANDSHAKE_PROTOCOL_VERSIONS
        if isinstance(decoded, dict) and ("id" not in decoded or "method" not in decoded):
            await self._acknowledge(decoded, version if is_modern else None, send)
            return
        try:
            message = JSONRPCRequest.model_validate(decoded)
        except ValidationError:
            await _refuse(send, None, INVALID_REQUEST, "Body must be a single JSON-RPC request or notification object")
            return
        if is_modern:
            connection = await self._modern(request, decoded, message, send)
        else:
            connection = Connection.from_envelope(version or DEFAULT_NEGOTIATED_VERSION, None, None)
        if connection is not None:
            await self._serve(request, message, connection, takes_events=takes_events, receive=receive, send=send)

    async def _acknowledge(self, decoded: dict[str, Any], modern_version: str | None, send: Send) -> None:
        """Accept a notification, or a reply nobody asked for; neither has an effect on a stateless endpoint."""
        if modern_version is not None:
            unsupported = unsupported_protocol_version_rejection(modern_version)
            if unsupported is not None:
                await _refuse(send, None, unsupported.code, unsupported.message, unsupported.data)
                return
        if "method" not in decoded and not {"result", "error"} & decoded.keys():
            await _refuse(send, None, INVALID_REQUEST, "Body must be a single JSON-RPC request or notification object")
            return
        await _reply(send, 202, b"", [])

    async def _modern(
        self, request: Request, decoded: dict[str, Any], message: JSONRPCRequest, send: Send
    ) -> Connection | None:
        """Return the connection that a 2026-07-28 envelope describes, or refuse the request."""
        duplicated = find_duplicated_routing_header(request.headers.items())
        if duplicated is not None:
            await _refuse(send, message.id, HEADER_MISMATCH, f"{duplicated} header appears more than once")
            return None
        route = classify_inbound_request(
            # Blanks around a value do not belong to it (RFC 9110, 5.5); httptools leaves those behind it.
            decoded,
            headers={name: value.strip(" \t") for name, value in request.headers.items()},
        )
        # No tool's schema maps an argument to a header, so that there are no Mcp-Param headers to compare.
        if isinstance(route, InboundLadderRejection):
            await _refuse(send, message.id, route.code, route.message, route.data)
            return None
        return Connection.from_envelope(route.protocol_version, route.client_info, route.client_capabilities)

    async def _serve(
        self,
        request: Request,
        message: JSONRPCRequest,
        connection: Connection,
        *,
        takes_events: bool,
        receive: Receive,
        send: Send,
    ) -> None:
        token = progress_token_from_params(message.params)
        events = _Events(send) if token is not None and takes_events else None
        exchange = _Exchange(
            transport=TransportContext(kind="streamable-http", can_send_request=False, headers=request.headers),
            request_id=message.id,
            message_metadata=ServerMessageMetadata(request_context=request),
            progress_token=token if events is not None else None,
            events=events,
        )
        work = asyncio.create_task(self._run(message, exchange, connection))
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
            status, body = work.result()
            if events is not None and events.is_open:
                await events.write(body, last=True)
            else:
                await _reply(send, status, body)
        finally:
            for task in (work, watch):
                if task is not None and not task.done():
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await task

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
            return status, _error_body(message.id, data)
        return 200, orjson.dumps({"jsonrpc": "2.0", "id": message.id, "result": result})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class _Bearer:
    """Lets through only who knows the token."""

    def __init__(self, app: McpEndpoint, token: str) -> None:
        self._app = app
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, token = given.partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(token.strip(), self._token):
            await _reply(send, 401, b'{"error":"a bearer token is needed"}', [*_JSON, (b"www-authenticate", b"Bearer")])
            return
        await self._app(scope, receive, send)


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach `host`."""
    import ipaddress

    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _security(host: str, allowed_hosts: list[str], *, has_token: bool) -> TransportSecuritySettings:
    if is_loopback(host) or allowed_hosts or not has_token:
        names = ["127.0.0.1", "localhost", "[::1]", *allowed_hosts]
        if host not in names and host not in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
            names.append(f"[{host}]" if ":" in host else host)
        return TransportSecuritySettings(
            allowed_hosts=[*names, *(f"{name}:*" for name in names)],
            allowed_origins=[
                f"{scheme}://{name}{port}" for scheme in ("http", "https") for name in names for port in ("", ":*")
            ],
        )
    # A page that rebinds a name to this address does not know the token.
    return TransportSecuritySettings(enable_dns_rebinding_protection=False)


def build_http_app(
    server: Server[Any], *, host: str, token: str | None = None, allowed_hosts: list[str] | None = None
) -> ASGIApp:
    """Return the ASGI application: `/mcp` and `/healthz`.

    server: one whose results are finished JSON. host: the address that it will listen on, which decides with
    `allowed_hosts` which Host and Origin headers are believed.
    """
    endpoint = McpEndpoint(server, security=_security(host, allowed_hosts or [], has_token=token is not None))

    async def healthz(_request: Request) -> Response:
        return Response(b'{"status":"ok"}', media_type="application/json")

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield

    mcp: Any = endpoint if token is None else _Bearer(endpoint, token)
    others = Starlette(
        routes=[Route("/mcp", mcp, methods=["GET", "POST", "DELETE"]), Route("/healthz", healthz)], lifespan=lifespan
    )

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        # The quick way for what nearly all requests ask for: routing and its middleware cost as much as a small call.
        quick = scope["type"] == "http" and scope["path"] == "/mcp"
        await (mcp if quick else others)(scope, receive, send)

    return app
