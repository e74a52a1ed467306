"""The dial: one physical connection of a profile, with its secret, TLS, keepalive and read-only session.

What is here knows nothing of pools. asyncpg is given every value explicitly: what it would read from the
environment (PGPASSWORD, ~/.pgpass, PGSSLMODE, …) belongs to no profile.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import ssl
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

import asyncpg
import orjson
from asyncpg.connect_utils import SessionAttribute

from gateway.credentials import resolve_password
from gateway.deadline import Deadline
from gateway.errors import ConfigError, GatewayError, Unavailable
from gateway.observe import DialRecord, Notify
from gateway.pg_errors import from_dial
from gateway.pg_types import BUILTIN_TYPES
from gateway.profiles import Endpoint, Profile
from gateway.tls import tls_plan

APPLICATION_NAME: Final = "pg-mcp-gateway"
OLDEST_SERVER: Final = 13
_STATEMENTS_KEPT: Final = 200
_CACHEABLE_BYTES: Final = 256 * 1024
# Azure's load balancer forgets an idle connection after 4 minutes, without a word to either side.
_KEEPALIVE: Final = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 30_000}


def _array_literal(values: list[Any]) -> str:
    parts = []
    for value in values:
        if value is None:
            parts.append("NULL")
        elif isinstance(value, list):
            parts.append(_array_literal(value))
        else:
            text = argument_text(value).replace("\\", "\\\\").replace('"', '\\"')
            parts.append(f'"{text}"')
    return "{" + ",".join(parts) + "}"


def argument_text(value: Any) -> str:
    """Return a JSON value as PostgreSQL reads it from text; lists become array literals, objects JSON."""
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case list():
            return _array_literal(value)
        case dict():
            return orjson.dumps(value).decode()
        case _:
            return str(value)


def _json_text(value: Any) -> str:
    # A string is JSON text already, as it is in answers: what was read can be sent back.
    return value if isinstance(value, str) else orjson.dumps(value).decode()


class _Named(Protocol):
    name: str


class _NoStatement:
    """Says to asyncpg that no anonymous statement was overwritten while types were looked up."""

    name = "none"


if TYPE_CHECKING:
    _Driver = asyncpg.Connection[asyncpg.Record]
else:  # generic in the stubs only
    _Driver = asyncpg.Connection


class GatewayConnection(_Driver):
    """asyncpg's connection, on which every value travels as text and no type is ever looked up.

    The driver's introspection of an unseen type costs five to eight round trips, and some types it cannot decode
    at all. Here a page arrives as JSON that the server wrote, and arguments leave as text that it reads.
    """

    # What pg_stat_activity calls this session; no other session is called so.
    session_name: str = ""

    def speak_text(self) -> None:
        """Use text for every built-in type."""
        settings = self._protocol.get_settings()  # type: ignore[attr-defined] # asyncpg has no public way without a round trip a type
        for oid, kind in BUILTIN_TYPES.items():
            encoder = _json_text if kind.family in ("json", "jsonb") else argument_text
            settings.add_python_codec(oid, kind.name, "pg_catalog", None, "scalar", encoder, str, "text")

    async def _introspect_types(self, typeoids: Any, timeout: float | None) -> tuple[list[Any], _Named]:  # noqa: ARG002, ASYNC109 - asyncpg's own hook
        settings = self._protocol.get_settings()  # type: ignore[attr-defined] # as above
        for oid in typeoids:
            settings.add_python_codec(oid, f"oid {oid}", "", None, "scalar", argument_text, str, "text")
        return [], _NoStatement()

    async def _cleanup_stmts(self) -> None:
        # asyncpg closes evicted statements one round trip each, in the middle of a call; `close_evicted` does it after.
        return

    async def close_evicted(self) -> None:
        """Close on the server the prepared statements that fell out of the cache."""
        await super()._cleanup_stmts()  # type: ignore[misc] # not in the stubs

    @property
    def socket(self) -> socket.socket | None:
        """The connection's own socket, or what stands for it."""
        transport = self._transport  # type: ignore[attr-defined] # not in the stubs; asyncpg sets no keepalive
        return None if transport is None else transport.get_extra_info("socket")


def session_settings(profile: Profile, name: str) -> dict[str, str]:
    """Return what the session called `name` starts with; RESET ALL returns to these values."""
    limits = profile.limits
    settings = {
        "application_name": name,
        "default_transaction_read_only": "on",
        "statement_timeout": str(max(1, round(limits.statement_s * 1000))),
        "lock_timeout": str(max(1, round(min(limits.statement_s * 0.9, 2.0) * 1000))),
        "idle_in_transaction_session_timeout": str(round((limits.call_s + 10) * 1000)),
        # A role or database may have changed these; values are written in one form only.
        "DateStyle": "ISO, YMD",
        "IntervalStyle": "postgres",
        "bytea_output": "hex",
        "extra_float_digits": "1",
        # A cancel that comes while a backend compiles is lost (seen with 15.18), and short reads gain nothing from it.
        "jit": "off",
        # The guard's parser knows no other way to read a string.
        "standard_conforming_strings": "on",
    }
    if profile.search_path:
        settings["search_path"] = ", ".join('"' + name.replace('"', '""') + '"' for name in profile.search_path)
    return settings


def _keep_alive(connection: GatewayConnection) -> None:
    """Let the kernel notice a dead link: asyncpg's own socket has no keepalive (MagicStack/asyncpg#606)."""
    known = connection.socket
    if known is None or known.family not in (socket.AF_INET, socket.AF_INET6):
        return
    # uvloop lends a stand-in without setsockopt; options belong to what both descriptors share.
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(known.fileno())) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


async def _connect(
    profile: Profile, endpoint: Endpoint, *, password: str, tls: ssl.SSLContext | bool, timeout_s: float
) -> GatewayConnection:
    name = f"{APPLICATION_NAME} {secrets.token_hex(4)}"
    connection: GatewayConnection = await asyncpg.connect(
        host=endpoint.host,
        port=endpoint.port,
        user=profile.user,
        password=password,
        passfile="",
        database=profile.database,
        ssl=tls,
        direct_tls=False,
        target_session_attrs=SessionAttribute.any,
        krbsrvname="postgres",
        gsslib="gssapi",
        timeout=timeout_s,
        # It bounds the driver's own cancel, too, after which it drops the connection without a word about the backend:
        # later than the pool's own patience, so that the pool is the one to find out.
        command_timeout=profile.limits.statement_s + 5,
        statement_cache_size=_STATEMENTS_KEPT,
        max_cached_statement_lifetime=0,
        max_cacheable_statement_size=_CACHEABLE_BYTES,
        server_settings=session_settings(profile, name),
        connection_class=GatewayConnection,
    )
    connection.session_name = name
    return connection


async def _connect_by_mode(
    profile: Profile, endpoint: Endpoint, *, password: str, deadline: Deadline
) -> GatewayConnection:
    # The system's store takes 17 ms to read.
    plan = await asyncio.to_thread(tls_plan, profile.tls)
    is_local = endpoint.host.startswith("/")
    if plan.context is None or is_local:
        return await _connect(profile, endpoint, password=password, tls=False, timeout_s=deadline.left())
    try:
        return await _connect(profile, endpoint, password=password, tls=plan.context, timeout_s=deadline.left())
    except (OSError, asyncpg.PostgresError) as error:
        if not plan.goes_on_without(error):
            raise
    # `prefer`: the server has no TLS, or none for this user; libpq goes on without, and so do we.
    return await _connect(profile, endpoint, password=password, tls=False, timeout_s=deadline.left())


async def dial(
    profile: Profile, endpoint: Endpoint, *, environ: Mapping[str, str], deadline: Deadline, tell: Notify
) -> GatewayConnection:
    """Return a new connection to `endpoint`, read-only from its first packet on.

    Raises a GatewayError within the deadline. The secret is asked for at each dial, so a rotated one is used.
    """
    started = time.monotonic()
    outcome = "internal"
    try:
        unsupported = profile.unsupported()
        if unsupported is not None:
            raise ConfigError([f"profile {profile.name}: {unsupported}"])
        async with deadline.scope():
            password = await resolve_password(profile, environ)
            connection = await _connect_by_mode(profile, endpoint, password=password or "", deadline=deadline)
        version = connection.get_server_version()
        if version.major < OLDEST_SERVER:
            connection.terminate()
            raise Unavailable(
                f"{endpoint} is PostgreSQL {version.major}; the gateway needs {OLDEST_SERVER} or later",
                hint="Upgrade the server, or read it with a tool made for it.",
                profile=profile.name,
            )
        connection.speak_text()
        _keep_alive(connection)
        outcome = "ok"
    except asyncio.CancelledError:
        outcome = "cancelled"
        raise
    except GatewayError as error:
        outcome = error.code
        error.profile = error.profile or profile.name
        raise
    except Exception as error:
        ours = from_dial(error, profile=profile.name, endpoint=str(endpoint))
        outcome = ours.code
        raise ours from error
    else:
        return connection
    finally:
        tell(
            DialRecord(
                profile=profile.name,
                endpoint=str(endpoint),
                outcome=outcome,
                seconds=time.monotonic() - started,
            )
        )
