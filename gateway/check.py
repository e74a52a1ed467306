"""`pg-gateway check`: one profile hop by hop, each tried by itself, so that the failing one has a name."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
import struct
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from gateway.connect import Dialler, GatewayConnection
from gateway.credentials import resolve_password
from gateway.deadline import Deadline
from gateway.errors import ConfigError, GatewayError, TlsFailed, Unavailable
from gateway.pg_errors import from_dial
from gateway.posture import Posture, posture_of
from gateway.profiles import Endpoint, Profile
from gateway.session import begin_read_only
from gateway.standing import Replication, Standing, replication_of, standing_of
from gateway.tls import tls_plan

# PostgreSQL protocol, 55.2.10: SSLRequest is its own length and this code.
_SSL_REQUEST: Final = struct.pack("!ii", 8, 80877103)

# `replication` is for a standby, `hosts` for several hosts or where there is a `target`.
HOPS: Final = (
    *("configuration", "DNS", "TCP", "TLS", "login"),
    *("server", "replication", "session", "rights", "hosts"),
)
# A standby that is further behind is worth a warning.
LAG_S: Final = 30.0

# What silence means, by the hop that met it.
_SILENCE: Final = {
    "configuration": "A password file on a network that does not answer?",
    "DNS": "The name server of this machine does not answer.",
    "TCP": "A firewall drops the packets, or nothing lives at this address: check host and port.",
    "TLS": "It takes connections and says nothing: is it PostgreSQL, or a proxy that lost the server behind it?",
    "login": "It takes connections and says nothing: is it PostgreSQL, or a proxy that lost the server behind it?",
    "server": "The login worked, and then nothing came back: is the server overloaded?",
    "replication": "The login worked, and then nothing came back: is the server overloaded?",
}
# What a refused login means, by SQLSTATE (PostgreSQL documentation, appendix A).
_REFUSALS: Final = {
    "28P01": "The server does not know this user, or the password is another one.",
    "28000": "No line of pg_hba.conf admits this user, database and address, or only with the other kind of ssl_mode.",
    "3D000": "Correct `database`, or create it.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """One step of a connection. state: "ok", "warn" (works, but …) or "failed"; later hops are not tried then.

    posture: what the login may do, once that is known.
    """

    name: str
    state: Literal["ok", "warn", "failed"]
    detail: str
    hint: str | None = None
    seconds: float = 0.0
    posture: Posture | None = None


@dataclass(slots=True)
class _Path:
    """What the hops to one endpoint find out for those behind them."""

    profile: Profile
    endpoint: Endpoint
    environ: Mapping[str, str]
    deadline: Deadline
    stays_here: bool = False
    connection: GatewayConnection | None = None
    posture: Posture | None = None
    # Shared by the paths to all the hosts.
    standings: dict[Endpoint, Standing] = field(default_factory=dict)

    @property
    def is_socket(self) -> bool:
        return self.endpoint.host.startswith("/")


def _ok(detail: str) -> Hop:
    return Hop(name="", state="ok", detail=detail)


async def _configuration(path: _Path) -> Hop:
    profile = path.profile
    unsupported = profile.unsupported()
    if unsupported is not None:
        raise ConfigError([unsupported])
    await resolve_password(profile, path.environ)
    changed = ", ".join(f"{key} from {variable}" for key, variable in profile.overrides)
    return _ok(f"{profile.address} as {profile.user}" + (f" ({changed})" if changed else ""))


async def _dns(path: _Path) -> Hop:
    if path.is_socket:
        path.stays_here = True
        return _ok("a Unix socket: no name to look up")
    endpoint = path.endpoint
    found = await asyncio.get_running_loop().getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    path.stays_here = all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in addresses)
    if addresses == [endpoint.host]:
        return _ok(f"{endpoint.host} is an address")
    return _ok(f"{endpoint.host} is {', '.join(addresses)}")


async def _tcp(path: _Path) -> Hop:
    endpoint = path.endpoint
    if path.is_socket:
        _, writer = await asyncio.open_unix_connection(f"{endpoint.host}/.s.PGSQL.{endpoint.port}")
    else:
        _, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return _ok(f"{endpoint} accepts connections")


def _handshake(endpoint: Endpoint, context: ssl.SSLContext, timeout_s: float) -> str | None:
    """Return what was agreed on, or None when the server offers no TLS. Blocks: for a thread."""
    with socket.create_connection((endpoint.host, endpoint.port), timeout=timeout_s) as raw:
        raw.sendall(_SSL_REQUEST)
        answer = raw.recv(1)
        if answer == b"N":
            return None
        if answer != b"S":
            raise Unavailable(
                f"{endpoint} does not answer as PostgreSQL does", hint="Do host and port name the database itself?"
            )
        with context.wrap_socket(raw, server_hostname=endpoint.host) as wrapped:
            cipher = wrapped.cipher()
            return f"{wrapped.version()}, {cipher[0] if cipher else 'unknown cipher'}"


async def _tls(path: _Path) -> Hop:
    profile, endpoint = path.profile, path.endpoint
    if path.is_socket:
        return _ok("not on a Unix socket")
    plan = await asyncio.to_thread(tls_plan, profile.tls)
    if plan.context is None:
        if path.stays_here:
            return _ok("disabled; the connection stays on this machine")
        return Hop(
            name="",
            state="warn",
            detail="disabled: data and password travel readable",
            hint='Set ssl_mode = "verify-full".',
        )
    agreed = await asyncio.to_thread(_handshake, endpoint, plan.context, max(0.1, path.deadline.left()))
    if agreed is None:
        if plan.required:
            raise TlsFailed(
                f"{endpoint} does not offer TLS, which ssl_mode = {profile.tls.mode} requires",
                hint='Enable TLS on the server. ssl_mode = "disable" would send data and password readable.',
            )
        detail = "the server offers none; ssl_mode = prefer goes on without"
        hint = None if path.stays_here else "Data and password travel readable: enable TLS on the server."
        return Hop(name="", state="ok" if path.stays_here else "warn", detail=detail, hint=hint)
    if plan.verifies:
        return _ok(f"{agreed}, certificate checked")
    return Hop(
        name="",
        state="ok" if path.stays_here else "warn",
        detail=f"{agreed}, certificate not checked",
        hint=None if path.stays_here else 'ssl_mode = "verify-full" would notice a stranger in between.',
    )


async def _login(path: _Path) -> Hop:
    profile = path.profile
    dialler = Dialler(profile, environ=path.environ, tell=lambda _record: None)
    path.connection = await dialler.dial(path.endpoint, deadline=path.deadline)
    return _ok(f"as {profile.user} to {profile.database}")


async def _server(path: _Path) -> Hop:
    assert path.connection is not None  # noqa: S101 - the login made it or raised
    if path.profile.is_pooled:
        await begin_read_only(path.connection, path.profile, statement_s=path.deadline.left())
    path.posture = posture = await posture_of(path.connection)
    path.standings[path.endpoint] = standing = await standing_of(path.connection, path.profile)
    detail = f"PostgreSQL {posture.server}, {'standby' if standing.is_standby else 'primary'}"
    target = path.profile.target
    if target != "any":
        detail += f', {"fits" if _serves(standing, path.profile) else "does not fit"} target = "{target}"'
    return _ok(detail)


def _serves(standing: Standing, profile: Profile) -> bool:
    return {"primary": not standing.is_standby, "standby": standing.is_standby}.get(profile.target, True)


def _replication(found: Replication, *, lag_s: float) -> Hop:
    if found.lag_s is None:
        detail = "how far it is behind is not known: it has replayed no transaction since it started"
    else:
        detail = f"{found.lag_s:.1f} s behind, {found.lag_bytes or 0} bytes to replay"
    if found.is_paused:
        return _warning(f"replay is paused; {detail}", "`SELECT pg_wal_replay_resume()` as its administrator.")
    if not found.is_streaming:
        last = "" if found.age_s is None else f"; the last transaction that it has replayed is {found.age_s:.0f} s old"
        return _warning(
            f"receives nothing from a primary{last}",
            "Does the primary run, and is primary_conninfo right? A standby that replays an archive is always behind.",
        )
    if found.lag_s is not None and found.lag_s > lag_s:
        return _warning(f"{detail}: more than {lag_s:g} s", "Answers are that old. Is it busy, or is its storage slow?")
    return _ok(detail)


def _warning(detail: str, hint: str) -> Hop:
    return Hop(name="", state="warn", detail=detail, hint=hint)


def _hosts(profile: Profile, standings: Mapping[Endpoint, Standing]) -> Hop:
    """Return what the hosts are together, of those that could be asked."""
    serving = [endpoint for endpoint, standing in standings.items() if _serves(standing, profile)]
    roles = ", ".join(f"{endpoint} is {standing}" for endpoint, standing in standings.items())
    if not serving:
        return Hop(
            name="hosts",
            state="failed",
            detail=f'none of the hosts fits target = "{profile.target}"' + (f": {roles}" if roles else ""),
            hint="Is a failover under way? Otherwise correct `hosts` or `target`.",
        )
    newest = max((standing.timeline for standing in standings.values()), default=0)
    behind = [str(endpoint) for endpoint, standing in standings.items() if 0 < standing.timeline < newest]
    if len({standing.system for standing in standings.values() if standing.system}) > 1:
        hint = "Unless it was made by a dump or an upgrade, a copy has the system identifier of its primary."
        done = _warning(f"these are not copies of one database: {roles}", hint)
    elif behind:
        hint = 'Stop it, or make it a standby of the new one; only target = "primary" avoids it by itself.'
        done = _warning(f"a failover has left behind {', '.join(behind)}: {roles}", hint)
    elif profile.target == "prefer-standby" and not any(standing.is_standby for standing in standings.values()):
        done = _warning(f"a primary serves, for there is no standby: {roles}", "Does the standby run?")
    else:
        done = _ok(roles)
    return replace(done, name="hosts")


def _session(profile: Profile, posture: Posture) -> Hop:
    if posture.read_only and profile.is_pooled:
        return Hop(
            name="session",
            state="ok",
            detail=f"read-only in each transaction, as behind a pooler ({profile.pooler})",
        )
    if posture.read_only:
        return Hop(name="session", state="ok", detail="read-only")
    return Hop(
        name="session",
        state="failed",
        detail="NOT read-only: the server ignored what the session asked for at its start",
        hint='Is there a pooler between? Then set pooler = "pgbouncer" in the profile.',
    )


def _rights(profile: Profile, posture: Posture) -> Hop:
    if not posture.risks:
        return Hop(name="rights", state="ok", detail=f"{posture.user} can only read", posture=posture)
    is_enforced = profile.posture == "enforce"
    hint = "Log in as a role that can only read: `pg-gateway check --sql` prints the SQL that makes one."
    return Hop(
        name="rights",
        state="failed" if is_enforced else "warn",
        detail=f"{posture.user} " + "; ".join(posture.risks),
        hint=f'posture = "enforce" refuses all calls. {hint}' if is_enforced else hint,
        posture=posture,
    )


_HOPS: Final[tuple[tuple[str, Callable[[_Path], Awaitable[Hop]]], ...]] = (
    ("DNS", _dns),
    ("TCP", _tcp),
    ("TLS", _tls),
    ("login", _login),
    ("server", _server),
)


def _failure(name: str, error: Exception, path: _Path) -> Hop:
    """Return the hop that `error` ended, with a hint for the operator rather than for a caller."""
    cause: BaseException = error
    while isinstance(cause, GatewayError) and cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, TimeoutError):
        budget = f"{path.deadline.budget_s:g} s"
        return Hop(name=name, state="failed", detail=f"no answer within {budget}", hint=_SILENCE[name])
    ours = from_dial(error, profile=path.profile.name, endpoint=str(path.endpoint))
    hint = _REFUSALS.get(ours.sqlstate or "", ours.hint)
    secret = path.profile.password or ""
    if ours.sqlstate == "28P01" and secret.startswith(("env:", "file:")):
        hint = f"{hint} It was taken from {secret}."
    return Hop(name=name, state="failed", detail=ours.message, hint=hint)


async def _try(name: str, hop: Callable[[_Path], Awaitable[Hop]], path: _Path, timeout_s: float) -> Hop:
    started = time.monotonic()
    path.deadline = Deadline.after(timeout_s)
    try:
        async with path.deadline.scope():
            done = await hop(path)
    except Exception as error:  # noqa: BLE001 - whatever breaks a hop is what the operator wants to read
        done = _failure(name, error, path)
    return replace(done, name=name, seconds=round(time.monotonic() - started, 4))


async def check_profile(
    profile: Profile, *, environ: Mapping[str, str], timeout_s: float, lag_s: float = LAG_S
) -> AsyncIterator[Hop]:
    """Yield each hop as it is done; behind one that failed there is none to the same server.

    Hops: configuration; then for each server of the profile DNS, TCP, TLS, login, server, replication (of a standby;
    a warning above `lag_s`), session and rights; last hosts, of several or with a `target`. Each has `timeout_s` of its
    own.
    """
    path = _Path(profile, profile.endpoints[0], environ, Deadline.after(timeout_s))
    first = await _try("configuration", _configuration, path, timeout_s)
    yield first
    if first.state == "failed":
        return
    for endpoint in profile.endpoints:
        async with contextlib.aclosing(_check_endpoint(replace(path, endpoint=endpoint), timeout_s, lag_s)) as hops:
            async for hop in hops:
                yield hop
    if profile.target != "any" or len(profile.endpoints) > 1:
        yield _hosts(profile, path.standings)


async def _check_endpoint(path: _Path, timeout_s: float, lag_s: float) -> AsyncGenerator[Hop, None]:
    async def replication(path: _Path) -> Hop:
        assert path.connection is not None  # noqa: S101 - the login made it
        return _replication(await replication_of(path.connection, path.profile), lag_s=lag_s)

    try:
        for name, hop in (*_HOPS, ("replication", replication)):
            if name == "replication" and not path.standings[path.endpoint].is_standby:
                continue
            done = await _try(name, hop, path, timeout_s)
            yield done
            if done.state == "failed":
                return
        assert path.posture is not None  # noqa: S101 - the server's hop found it or failed
        yield _session(path.profile, path.posture)
        yield _rights(path.profile, path.posture)
    finally:
        if path.connection is not None:
            path.connection.terminate()
