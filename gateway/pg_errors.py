"""The seam: the only place that knows asyncpg's and the socket's errors, and makes ours of them.

Rows are read from the most specific to the most general; the cause is kept by `raise … from`. `from_dial` is
long because it is such a table, of cases that no code or class tells apart.
"""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from typing import Final

import asyncpg
from asyncpg.exceptions import ClientConfigurationError, InternalClientError

from gateway.deadline import AWAITED, Stage
from gateway.errors import (
    AuthFailed,
    BadQuery,
    CallTimeout,
    ConfigError,
    GatewayError,
    InternalError,
    InvalidArguments,
    NotFound,
    PermissionDenied,
    Repeat,
    TlsFailed,
    TooLarge,
    Unavailable,
    UnsafeSql,
)

_MESSAGE_BYTES: Final = 2048
_DROPPED: Final = "A firewall may drop the packets."
_SILENT: Final = {
    "name look-up": "The name server does not answer.",
    "TLS": "It accepts connections but does not answer: it may be stopped, or a proxy may have lost it.",
    "login": "It accepts connections but does not answer: it may be stopped, or a proxy may have lost it.",
}
_RESTART: Final = "The database is restarting or was told to stop. Try again in a moment."


@dataclass(frozen=True, slots=True)
class _Row:
    """SQLSTATEs that start with `prefix` become `error`, with `hint` unless the server gave one.

    repeat: whether the read is tried again inside its call. words: the message must hold them; they are a pooler's.
    """

    prefix: str
    error: type[GatewayError]
    hint: str | None = None
    repeat: Repeat = "never"
    words: str = ""


_POOLER_KEY: Final = 'Set pooler = "pgbouncer" in the profile: a pooler in transaction mode stands before the server.'
_POOLER_LOGIN: Final = "Check user and password, and that PgBouncer knows them by its auth_file or auth_query."
_POOLER_SERVER: Final = "PgBouncer does not reach the database behind it. Try again in a moment."
# PgBouncer says all but everything by 08P01 (its src/objects.c, client.c, janitor.c; seen with 1.18): the words decide.
# What it refused before it had a server connection was not run, and is tried again as any dial is.
_POOLER_ROWS: Final[tuple[_Row, ...]] = (
    _Row("08P01", ConfigError, _POOLER_KEY, words="unsupported startup parameter"),
    _Row("08P01", AuthFailed, _POOLER_LOGIN, words="authentication failed"),
    _Row("08P01", AuthFailed, _POOLER_LOGIN, words="no such user"),
    _Row("08P01", ConfigError, "The profile names a database that PgBouncer does not know.", words="no such database"),
    _Row("08P01", ConfigError, "The profile names a database that does not exist.", words="does not exist"),
    _Row("08P01", Unavailable, "Somebody has disabled this database in PgBouncer.", words="is disabled"),
    _Row(
        "08P01",
        Unavailable,
        "PgBouncer has no place for another client. Try again in a moment.",
        "always",
        words="no more connections allowed",
    ),
    _Row(
        "08P01",
        Unavailable,
        "All of PgBouncer's connections to the server were taken, or it is paused. Try again in a moment.",
        "always",
        words="query_wait_timeout",
    ),
    _Row("08P01", Unavailable, _POOLER_SERVER, "always", words="server login has been failing"),
    _Row("08P01", Unavailable, _POOLER_SERVER, "always", words="server login failed"),
    _Row("08P01", Unavailable, _POOLER_SERVER, "always", words="cannot connect to server"),
    _Row("08P01", Unavailable, "Try again in a moment.", "always", words="client_"),  # idle or slow to log in
    # The server connection broke while it was made ready for us.
    _Row("08P01", Unavailable, _RESTART, "always", words="invalid server parameter"),
    # Perhaps by this statement: that an administrator ended the session (57P01) is not handed on.
    _Row("08P01", Unavailable, _RESTART, "once", words="server conn crashed"),
    _Row("08P01", CallTimeout, "PgBouncer's own query_timeout is shorter than this statement.", words="query timeout"),
    # Prepared on one server connection, executed on another; or thrown away by a function (DEALLOCATE ALL).
    _Row(
        "26000",
        Unavailable,
        'Try again. Behind a pooler in transaction mode, the profile needs pooler = "pgbouncer".',
        "once",
    ),
    _Row("42P05", Unavailable, _POOLER_KEY),
)
# Codes: PostgreSQL documentation, appendix A. What is worth another try: Npgsql's PostgresException.IsTransient, cut to
# what says that the connection or its server process is gone. What a statement may have brought about itself (57P02, a
# crash) is repeated once; lack of space or memory and lock timeouts are not: the next try would add to them.
_ROWS: Final[tuple[_Row, ...]] = (
    _Row("25006", UnsafeSql, "This session is read-only. Read with SELECT; changes are not possible here."),
    _Row("57014", CallTimeout, "Ask for less: filter on an indexed column, aggregate, or lower `limit`."),
    _Row("55P03", CallTimeout, "The table is locked by somebody else, such as a migration. Try again later."),
    _Row("28", AuthFailed, "Check user, password and pg_hba.conf; `pg-gateway check PROFILE` names the failing step."),
    _Row("3D000", ConfigError, "The profile names a database that does not exist on this server."),
    _Row("57P01", Unavailable, _RESTART, "always"),  # an administrator ended the session
    _Row("57P02", Unavailable, _RESTART, "once"),  # another session crashed, perhaps this statement's own doing
    _Row("57P03", Unavailable, _RESTART, "always"),  # starting up, shutting down
    _Row("57P05", Unavailable, _RESTART, "always"),  # idle for too long; nothing was running
    _Row("57", Unavailable, _RESTART),
    *_POOLER_ROWS,
    _Row("08P01", Unavailable, "The server or a pooler does not understand the connection; check `pooler`."),
    _Row("08", Unavailable, "The connection broke. Try again in a moment.", "always"),
    _Row("53300", Unavailable, "The server has no free connection slot. Try again in a moment.", "always"),
    _Row("53400", TooLarge, "The statement needs more temporary space than the server allows. Ask for less."),
    _Row("53", Unavailable, "The server is short of a resource. Try again, or ask for less."),
    _Row("58", Unavailable, "The server had a system error. Try again in a moment."),
    _Row("40", Unavailable, "The server gave up the statement for another one. Try again.", "once"),  # standby conflict
    _Row(
        "42501", PermissionDenied, "The gateway's database role may not read this. Use another table, or ask its owner."
    ),
    _Row("42P01", NotFound, "Use `search_tables` or `list_tables` to find the table."),
    _Row("42703", NotFound, "Use `describe_table` to see the columns."),
    _Row("3F000", NotFound, "Use `list_tables`: for an unknown schema it names those that exist."),
    _Row("54", TooLarge, "Ask for less: fewer columns, fewer expressions."),
    _Row("22021", BadQuery, "The value is no text in the encoding of this database; read it as bytea."),
    _Row("22P02", BadQuery, "A value cannot be read as the type it is compared with; check `params` and literals."),
    _Row("0A000", BadQuery),
)

_CONNECTION_LOST: Final = (ConnectionError, asyncpg.InterfaceError)
# Something has thrown away what the driver prepared (a function with DEALLOCATE ALL), and so it will be next time.
_UNFIT: Final = frozenset({"26000"})
# asyncpg replaces the server's hint by advice to who writes programs with it.
_DRIVER_ADVISES: Final = frozenset({"26000", "42P05"})


def _cut(text: str) -> str:
    data = text.encode()
    return text if len(data) <= _MESSAGE_BYTES else data[:_MESSAGE_BYTES].decode(errors="ignore") + "…"


def _position(error: asyncpg.PostgresError, offset: int | None) -> int | None:
    """Return the place in the caller's text, when `offset` says how far the statement is shifted in it."""
    raw = getattr(error, "position", None)
    if raw is None or offset is None:
        return None
    position = int(raw) + offset
    return position if position > 0 else None


def from_server(error: asyncpg.PostgresError, *, profile: str, offset: int | None = None) -> GatewayError:
    """Return our error for one that the server reported.

    offset: characters of the caller's text before the statement that was sent; None when the position that
    the server gives means nothing to the caller.
    """
    # The driver reports a killed backend as 08003 and keeps what the server said in the cause.
    is_lost = isinstance(error, asyncpg.ConnectionDoesNotExistError)
    if is_lost and isinstance(error.__cause__, asyncpg.PostgresError):
        error = error.__cause__
    sqlstate = error.sqlstate or "XX000"
    message = _cut(str(getattr(error, "message", None) or error))
    detail = getattr(error, "detail", None)
    if detail:
        message = _cut(f"{message} ({detail})")
    row = next((row for row in _ROWS if sqlstate.startswith(row.prefix) and row.words in message), _Row("", BadQuery))
    if row.words:
        message = f"the pooler says: {message}"
    hint = (None if sqlstate in _DRIVER_ADVISES else getattr(error, "hint", None)) or row.hint
    if row.error is ConfigError:
        fault = ConfigError([message], hint=hint)
        fault.profile, fault.sqlstate = profile, sqlstate
        return fault
    # Whatever else a pooler says before it hangs up, the statement may have had to do with it.
    is_worth_it = is_lost and row.error is Unavailable and row.repeat == "never"
    repeat: Repeat = "once" if is_worth_it else row.repeat
    return row.error(
        message, hint=hint, profile=profile, sqlstate=sqlstate, position=_position(error, offset), repeat=repeat
    )


def _is_lost(error: BaseException) -> bool:
    """Say whether the driver found the connection gone; what the server said about it, if anything, is the cause."""
    if isinstance(error, asyncpg.ConnectionDoesNotExistError):
        return not isinstance(error.__cause__, asyncpg.PostgresError)
    # "Another operation (2)": the driver has read that the backend was ended, and not yet that the socket is closed.
    is_half_closed = isinstance(error, InternalClientError) and "another operation (2)" in str(error)
    return is_half_closed or isinstance(error, _CONNECTION_LOST)


def is_unfit(error: BaseException) -> bool:
    """Say whether a connection on which a statement raised this must not be used again, though it is open."""
    return isinstance(error, GatewayError | asyncpg.PostgresError) and error.sqlstate in _UNFIT


def _is_of_another_server(error: BaseException) -> bool:
    """Say whether our server could not reach one that it asked itself, over postgres_fdw or dblink.

    When it is our own connection that breaks, the severity is FATAL, or the driver says it, without any. 08P01 is our
    server's, too (a Bind with too few values), and only PostgreSQL sends the severity untranslated.
    """
    if not isinstance(error, asyncpg.PostgresError) or getattr(error, "severity_en", None) != "ERROR":
        return False
    sqlstate = error.sqlstate or ""
    return sqlstate.startswith("08") and sqlstate != "08P01"


def from_statement(error: BaseException, *, profile: str, offset: int | None = None) -> GatewayError:
    """Return our error for whatever a statement on an open connection raised."""
    if isinstance(error, GatewayError):
        return error
    # The driver says both of these itself, before it has sent anything.
    if isinstance(error, asyncpg.DataError | asyncpg.InterfaceError) and "argument" in str(error):
        return InvalidArguments(
            _cut(str(error)), hint="Give `params` one value for each of $1, $2, … in the query.", profile=profile
        )
    if _is_of_another_server(error) and isinstance(error, asyncpg.PostgresError):
        ours = from_server(error, profile=profile)
        return Unavailable(
            f"the database could not reach another server that it needs for this: {ours.message}",
            hint="Read tables that the database has itself, or tell the owner of the foreign table.",
            profile=profile,
            sqlstate=ours.sqlstate,
        )
    if _is_lost(error):
        # Without a word the server process may have gone down, perhaps by this statement.
        is_silent = isinstance(error, asyncpg.ConnectionDoesNotExistError) and error.__cause__ is None
        return Unavailable(
            "the connection to the database was lost",
            hint="Try again in a moment.",
            profile=profile,
            repeat="unless_crashed" if is_silent else "always",
        )
    if isinstance(error, asyncpg.PostgresError):
        return from_server(error, profile=profile, offset=offset)
    if isinstance(error, TimeoutError):
        return CallTimeout(
            "the database did not answer in time", hint="It or the network is slow: try again.", profile=profile
        )
    if isinstance(error, UnicodeError):
        return BadQuery(
            "the answer holds bytes that are not UTF-8", hint="Read such columns as bytea.", profile=profile
        )
    return InternalError(f"unexpected {type(error).__name__} in the gateway", profile=profile)


def from_dial(
    error: BaseException, *, profile: str, endpoint: str, stage: Stage = "connect", waited_s: float = 0.0
) -> GatewayError:
    """Return our error for a connection that could not be opened. stage: what was waited for, `waited_s` long."""
    if isinstance(error, GatewayError):
        error.profile = error.profile or profile
        return error
    if isinstance(error, asyncpg.PostgresError) and not _is_lost(error):
        return from_server(error, profile=profile)
    # Certificate errors are OSErrors too, and repeating the dial does not mend them.
    if isinstance(error, ssl.SSLCertVerificationError):
        return TlsFailed(
            f"the certificate of {endpoint} is not trusted: {error.verify_message}",
            hint="Set `ssl_root_cert` to the authority that signed it; with verify-full the host name must match.",
            profile=profile,
        )
    if isinstance(error, ssl.SSLError):
        return TlsFailed(
            f"no encrypted connection to {endpoint}: {error.reason or 'TLS handshake failed'}",
            hint="Check `ssl_mode` and that both sides speak TLS 1.2 or later.",
            profile=profile,
        )
    if isinstance(error, ConnectionError) and "rejected SSL" in str(error):
        return TlsFailed(
            f"{endpoint} does not offer TLS, which `ssl_mode` requires",
            hint='Enable TLS on the server; `ssl_mode = "disable"` sends data and password readable.',
            profile=profile,
        )
    if isinstance(error, socket.gaierror):
        return Unavailable(
            f"the name of {endpoint} cannot be resolved",
            hint="Check `host` for typing errors and that this machine can resolve it.",
            profile=profile,
            repeat="always",
            is_unproven=error.errno != socket.EAI_AGAIN,
        )
    if isinstance(error, ConnectionRefusedError):
        return Unavailable(
            f"{endpoint} refused the connection",
            hint="Is the server running, and do host and port match?",
            profile=profile,
            repeat="always",
            is_unproven=True,
        )
    if isinstance(error, TimeoutError):
        return Unavailable(
            f"{endpoint} did not answer in time: waited {waited_s:.1f} s for {AWAITED[stage]}",
            hint=f"{_SILENT.get(stage, _DROPPED)} `pg-gateway check PROFILE` tries each step.",
            profile=profile,
            repeat="always",
        )
    if isinstance(error, ClientConfigurationError):
        return ConfigError([f"profile {profile}: {error}"])
    if isinstance(error, OSError | asyncpg.InterfaceError | InternalClientError | EOFError) or _is_lost(error):
        return Unavailable(
            f"{endpoint} closed the connection while it was being opened",
            hint="Is this a PostgreSQL server? A proxy may have lost the server behind it.",
            profile=profile,
            repeat="always",
        )
    return InternalError(f"unexpected {type(error).__name__} while connecting to {endpoint}", profile=profile)
