"""The dial: one physical connection of a profile, with its secret, TLS and read-only session.

What is here knows nothing of pools. asyncpg is given every value explicitly: what it would read from the
environment (PGPASSWORD, ~/.pgpass, PGSSLMODE, …) belongs to no profile.
"""

from __future__ import annotations

import asyncio
import secrets
import ssl
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, cast

import asyncpg
import orjson
from asyncpg.connect_utils import SessionAttribute

from gateway.credentials import resolve_password
from gateway.deadline import Deadline, Stages
from gateway.dial_loop import DialLoop, LookUp, look_up
from gateway.errors import ConfigError, GatewayError, Unavailable
from gateway.observe import DialRecord, Notify
from gateway.pg_errors import from_dial
from gateway.pg_types import BUILTIN_TYPES
from gateway.profiles import Endpoint, Profile
from gateway.session import APPLICATION_NAME, start_up_settings
from gateway.threads import Threads
from gateway.tls import tls_plan

OLDEST_SERVER: Final = 13
_STATEMENTS_KEPT: Final = 200
_CACHEABLE_BYTES: Final = 256 * 1024
# With less than this nothing is begun, so that what took the time is named and not what would have come next.
_LEAST_S: Final = 0.05


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
    # Where it leads, and the address that the name had when it was dialled.
    endpoint: Endpoint | None = None
    peer: str | None = None

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


def _command_timeout_s(profile: Profile) -> float:
    """Return the driver's own patience with a statement, which must outlast everybody else's."""
    limits = profile.limits
    # A pooler may keep a statement waiting for a server connection for as long as the call lasts.
    return (max(limits.statement_s, limits.call_s) if profile.is_pooled else limits.statement_s) + 5


class Dialler:
    """Opens connections of one profile, with what they need beside it.

    It has threads of its own for what blocks; whatever hangs in them holds up this profile only.
    """

    def __init__(
        self, profile: Profile, *, environ: Mapping[str, str], tell: Notify, look_up: LookUp = look_up
    ) -> None:
        """Make a dialler. look_up: blocks until it has the addresses of a name."""
        self._profile = profile
        self._environ = environ
        self._tell = tell
        self._look_up = look_up
        self._threads = Threads(profile.name)
        # Apart from the others, so that a name server that hangs is what is waited for, and not a certificate.
        self._look_ups = Threads(f"{profile.name} look-up")

    async def dial(self, endpoint: Endpoint, *, deadline: Deadline, stages: Stages | None = None) -> GatewayConnection:
        """Return a new connection to `endpoint`, read-only from its first packet on (behind a pooler: see `session`).

        stages: is told what is being waited for. Raises a GatewayError within the deadline. The name is looked up
        and the secret asked for at each dial, so that a changed one is used.
        """
        started = time.monotonic()
        outcome, profile, stages = "internal", self._profile, stages or Stages()
        try:
            unsupported = profile.unsupported()
            if unsupported is not None:
                raise ConfigError([f"profile {profile.name}: {unsupported}"])
            if deadline.left() < _LEAST_S:
                raise Unavailable(
                    f"no time was left to connect to {endpoint}: {stages.told()}", hint="Try again.", repeat="always"
                )
            stages.enter("login")
            async with deadline.scope():
                password = await resolve_password(profile, self._environ, run=self._threads.run)
                connection = await self._connect_by_mode(endpoint, password or "", deadline, stages)
            self._check_version(connection, endpoint)
            connection.speak_text()
            outcome = "ok"
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        except GatewayError as error:
            outcome = error.code
            error.profile = error.profile or profile.name
            raise
        except Exception as error:
            waited_s = time.monotonic() - stages.since
            ours = from_dial(error, profile=profile.name, endpoint=str(endpoint), stage=stages.now, waited_s=waited_s)
            outcome = ours.code
            raise ours from error
        else:
            return connection
        finally:
            took = time.monotonic() - started
            self._tell(DialRecord(profile=profile.name, endpoint=str(endpoint), outcome=outcome, seconds=took))

    def _check_version(self, connection: GatewayConnection, endpoint: Endpoint) -> None:
        version = connection.get_server_version()
        if version.major >= OLDEST_SERVER:
            return
        connection.terminate()
        raise Unavailable(
            f"{endpoint} is PostgreSQL {version.major}; the gateway needs {OLDEST_SERVER} or later",
            hint="Upgrade the server, or read it with a tool made for it.",
            profile=self._profile.name,
        )

    async def _connect_by_mode(
        self, endpoint: Endpoint, password: str, deadline: Deadline, stages: Stages
    ) -> GatewayConnection:
        # The system's store takes 17 ms to read.
        plan = await self._threads.run(tls_plan, self._profile.tls)
        is_local = endpoint.host.startswith("/")
        if plan.context is None or is_local:
            return await self._connect(endpoint, password, False, deadline, stages)
        try:
            return await self._connect(endpoint, password, plan.context, deadline, stages)
        except (OSError, asyncpg.PostgresError) as error:
            if not plan.goes_on_without(error):
                raise
        # `prefer`: the server has no TLS, or none for this user; libpq goes on without, and so do we.
        return await self._connect(endpoint, password, False, deadline, stages)

    async def _connect(
        self,
        endpoint: Endpoint,
        password: str,
        tls: ssl.SSLContext | Literal[False],
        deadline: Deadline,
        stages: Stages,
    ) -> GatewayConnection:
        profile = self._profile
        name = f"{APPLICATION_NAME} {secrets.token_hex(4)}"
        loop = DialLoop(
            endpoint, threads=self._look_ups, stages=stages, look_up=self._look_up, is_encrypted=tls is not False
        )
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
            timeout=deadline.left(),
            # It bounds the driver's own cancel, too, after which it drops the connection without a word about the
            # backend: later than the pool's own patience, so that the pool is the one to find out.
            command_timeout=_command_timeout_s(profile),
            # A pooler's next transaction runs on another server connection, which has no such statement.
            statement_cache_size=0 if profile.is_pooled else _STATEMENTS_KEPT,
            max_cached_statement_lifetime=0,
            max_cacheable_statement_size=_CACHEABLE_BYTES,
            server_settings=start_up_settings(profile, name),
            connection_class=GatewayConnection,
            loop=cast("asyncio.AbstractEventLoop", loop),
        )
        connection.session_name, connection.endpoint, connection.peer = name, endpoint, loop.peer
        return connection
