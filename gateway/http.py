"""The wire over HTTP: stateless Streamable HTTP at `/mcp`, and `/healthz`.

Each POST is one message. The checks and the protocol are the SDK's; what is ours is the way there (`exchange`): its own
HTTP transport neither cancels a call answered with JSON nor takes a finished result.
"""

from __future__ import annotations

import contextlib
import hmac
from collections.abc import AsyncIterator
from typing import Any, Final

import orjson
from mcp.server.connection import Connection
from mcp.server.lowlevel import Server
from mcp.server.streamable_http import check_accept_headers
from mcp.server.transport_security import TransportSecurityMiddleware, TransportSecuritySettings
from mcp.shared.inbound import (
    MCP_PROTOCOL_VERSION_HEADER,
    InboundLadderRejection,
    classify_inbound_request,
    find_duplicated_routing_header,
    unsupported_protocol_version_rejection,
)
from mcp_types import (
    DEFAULT_NEGOTIATED_VERSION,
    HEADER_MISMATCH,
    INVALID_REQUEST,
    PARSE_ERROR,
    JSONRPCRequest,
)
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.exchange import JSON, Exchanges, refuse, reply

BODY_BYTES: Final = 4 * 1024 * 1024


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
        self._exchanges = Exchanges(server)
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
            await refuse(send, None, INVALID_REQUEST, message, status=406)
            return
        body = await _read_body(request)
        if body is None:
            await Response("Request body too large", status_code=413)(scope, receive, send)
            return
        try:
            decoded = orjson.loads(body)
        except ValueError:
            await refuse(send, None, PARSE_ERROR, "Parse error")
            return
        await self._message(request, decoded, takes_events=takes_events, receive=receive, send=send)

    async def _message(
        self, request: Request, decoded: Any, *, takes_events: bool, receive: Receive, send: Send
    ) -> None:
        version = request.headers.get(MCP_PROTOCOL_VERSION_HEADER)
        is_modern = version is not None and version not in HANDSHAKE_PROTOCOL_VERSIONS
        if isinstance(decoded, dict) and ("id" not in decoded or "method" not in decoded):
            await self._acknowledge(request, decoded, version if is_modern else None, send)
            return
        try:
            message = JSONRPCRequest.model_validate(decoded)
        except ValidationError:
            await refuse(send, None, INVALID_REQUEST, "Body must be a single JSON-RPC request or notification object")
            return
        if is_modern:
            connection = await self._modern(request, decoded, message, send)
        else:
            connection = Connection.from_envelope(version or DEFAULT_NEGOTIATED_VERSION, None, None)
        if connection is not None:
            await self._exchanges.answer(
                request, message, connection, takes_events=takes_events, receive=receive, send=send
            )

    async def _acknowledge(
        self, request: Request, decoded: dict[str, Any], modern_version: str | None, send: Send
    ) -> None:
        """Accept a notification, or a reply nobody asked for; only a cancellation has an effect here."""
        if modern_version is not None:
            unsupported = unsupported_protocol_version_rejection(modern_version)
            if unsupported is not None:
                await refuse(send, None, unsupported.code, unsupported.message, unsupported.data)
                return
        if "method" not in decoded and not {"result", "error"} & decoded.keys():
            await refuse(send, None, INVALID_REQUEST, "Body must be a single JSON-RPC request or notification object")
            return
        # Without a handshake, a client cancels by closing the response, and there is no such message over HTTP.
        if modern_version is None and decoded.get("method") == "notifications/cancelled":
            self._exchanges.cancel(request, decoded.get("params"))
        await reply(send, 202, b"", [])

    async def _modern(
        self, request: Request, decoded: dict[str, Any], message: JSONRPCRequest, send: Send
    ) -> Connection | None:
        """Return the connection that a 2026-07-28 envelope describes, or refuse the request."""
        duplicated = find_duplicated_routing_header(request.headers.items())
        if duplicated is not None:
            await refuse(send, message.id, HEADER_MISMATCH, f"{duplicated} header appears more than once")
            return None
        route = classify_inbound_request(
            # Blanks around a value do not belong to it (RFC 9110, 5.5); httptools leaves those behind it.
            decoded,
            headers={name: value.strip(" \t") for name, value in request.headers.items()},
        )
        # No tool's schema maps an argument to a header, so that there are no Mcp-Param headers to compare.
        if isinstance(route, InboundLadderRejection):
            await refuse(send, message.id, route.code, route.message, route.data)
            return None
        return Connection.from_envelope(route.protocol_version, route.client_info, route.client_capabilities)


class _Bearer:
    """Lets through only who knows the token."""

    def __init__(self, app: McpEndpoint, token: str) -> None:
        self._app = app
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, token = given.partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(token.strip(), self._token):
            await reply(send, 401, b'{"error":"a bearer token is needed"}', [*JSON, (b"www-authenticate", b"Bearer")])
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
