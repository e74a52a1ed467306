"""`pg-gateway check`: one profile hop by hop, each tried by itself, so that the failing one has a name."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Final

from gateway.connect import GatewayConnection, dial
from gateway.credentials import resolve_password
from gateway.deadline import Deadline
from gateway.errors import GatewayError, TlsFailed
from gateway.pg_errors import from_dial
from gateway.posture import Posture, posture_of
from gateway.profiles import Endpoint, Profile
from gateway.tls import tls_plan

# PostgreSQL protocol, 55.2.10: SSLRequest is its own length and this code.
_SSL_REQUEST: Final = struct.pack("!ii", 8, 80877103)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """One step of a connection. state: "ok", "warn" (works, but …) or "failed"; later hops are not tried then."""

    name: str
    state: str
    detail: str
    hint: str | None = None
    seconds: float = 0.0


async def _dns(endpoint: Endpoint) -> tuple[str, list[str]]:
    if endpoint.host.startswith("/"):
        return "Unix socket, no name to look up", []
    found = await asyncio.get_running_loop().getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    return ", ".join(addresses), addresses


async def _tcp(endpoint: Endpoint) -> str:
    if endpoint.host.startswith("/"):
        _, writer = await asyncio.open_unix_connection(f"{endpoint.host}/.s.PGSQL.{endpoint.port}")
    else:
        _, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return f"{endpoint} accepts connections"


def _handshake(endpoint: Endpoint, context: ssl.SSLContext, timeout_s: float) -> str | None:
    """Return what was agreed on, or None when the server offers no TLS. Blocks: for a thread."""
    with socket.create_connection((endpoint.host, endpoint.port), timeout=timeout_s) as raw:
        raw.sendall(_SSL_REQUEST)
        answer = raw.recv(1)
        if answer == b"N":
            return None
        if answer != b"S":
            raise ConnectionResetError("no PostgreSQL server answers here")
        with context.wrap_socket(raw, server_hostname=endpoint.host) as wrapped:
            cipher = wrapped.cipher()
            return f"{wrapped.version()}, {cipher[0] if cipher else 'unknown cipher'}"


async def _tls(profile: Profile, endpoint: Endpoint, deadline: Deadline) -> Hop:
    plan = tls_plan(profile.tls)
    if endpoint.host.startswith("/"):
        return Hop(name="TLS", state="ok", detail="not on a Unix socket")
    if plan.context is None:
        return Hop(
            name="TLS",
            state="warn",
            detail="disabled: data and password travel readable",
            hint='Set ssl_mode = "verify-full" for anything but this machine.',
        )
    agreed = await asyncio.to_thread(_handshake, endpoint, plan.context, max(0.1, deadline.left()))
    if agreed is None:
        if plan.required:
            raise TlsFailed(
                f"{endpoint} does not offer TLS, which ssl_mode = {profile.tls.mode} requires",
                hint="Enable TLS on the server.",
                profile=profile.name,
            )
        return Hop(name="TLS", state="warn", detail="not offered; ssl_mode = prefer goes on without")
    checked = "certificate checked" if plan.verifies else "certificate not checked"
    state = "ok" if plan.verifies else "warn"
    hint = None if plan.verifies else 'ssl_mode = "verify-full" would notice a stranger in between.'
    return Hop(name="TLS", state=state, detail=f"{agreed}, {checked}", hint=hint)


def _rights(posture: Posture) -> Hop:
    if not posture.risks:
        return Hop(name="rights", state="ok", detail=f"{posture.user} can only read")
    return Hop(
        name="rights",
        state="warn",
        detail=f"{posture.user} " + "; ".join(posture.risks),
        hint="A role with SELECT alone is the boundary that holds whatever happens: see docs/security.md.",
    )


async def check_profile(profile: Profile, *, environ: Mapping[str, str], timeout_s: float) -> AsyncIterator[Hop]:
    """Yield each hop as it is done; the last one is the first that failed.

    Hops: configuration, DNS, TCP, TLS, login, server, session, rights, each within `timeout_s`.
    """
    endpoint = profile.endpoints[0]
    connection: GatewayConnection | None = None
    started = time.monotonic()

    def done(name: str, detail: str) -> Hop:
        return Hop(name=name, state="ok", detail=detail, seconds=time.monotonic() - started)

    name = "configuration"
    try:
        for name in ("configuration", "DNS", "TCP", "TLS", "login"):
            started = time.monotonic()
            deadline = Deadline.after(timeout_s)
            async with deadline.scope():
                match name:
                    case "configuration":
                        unsupported = profile.unsupported()
                        if unsupported is not None:
                            yield Hop(name=name, state="failed", detail=unsupported)
                            return
                        await resolve_password(profile, environ)
                        changed = ", ".join(f"{key} from {variable}" for key, variable in profile.overrides)
                        hop = done(name, f"{profile.address} as {profile.user}" + (f" ({changed})" if changed else ""))
                    case "DNS":
                        detail, _ = await _dns(endpoint)
                        hop = done(name, detail)
                    case "TCP":
                        hop = done(name, await _tcp(endpoint))
                    case "TLS":
                        hop = await _tls(profile, endpoint, deadline)
                    case _:
                        connection = await dial(
                            profile, endpoint, environ=environ, deadline=deadline, tell=lambda _record: None
                        )
                        hop = done(name, f"as {profile.user} to {profile.database}")
            yield hop
        name = "server"
        started = time.monotonic()
        assert connection is not None  # noqa: S101 - the login hop made it or raised
        async with asyncio.timeout(timeout_s):
            posture = await posture_of(connection)
        kind = "standby" if posture.standby else "primary"
        yield done(name, f"PostgreSQL {posture.server}, {kind}")
        yield Hop(
            name="session",
            state="ok" if posture.read_only else "failed",
            detail="read-only" if posture.read_only else "NOT read-only: the server ignored the start-up setting",
        )
        yield _rights(posture)
    except GatewayError as error:
        yield Hop(name=name, state="failed", detail=error.message, hint=error.hint, seconds=time.monotonic() - started)
    except Exception as error:  # noqa: BLE001 - whatever breaks a hop is what the operator wants to read
        ours = from_dial(error, profile=profile.name, endpoint=str(endpoint))
        yield Hop(name=name, state="failed", detail=ours.message, hint=ours.hint, seconds=time.monotonic() - started)
    finally:
        if connection is not None:
            connection.terminate()
