"""What a session starts with, and what each transaction begins with.

Without a pooler the settings go along with the connection's first packet, and RESET ALL returns to them. PgBouncer in
transaction mode refuses such packets (08P01), and a plain SET would reach other clients of the same server
connection: there, every transaction sets them for itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from gateway.profiles import Profile

if TYPE_CHECKING:
    import asyncpg


APPLICATION_NAME: Final = "pg-mcp-gateway"

# The session is everybody's who logs in through the pooler as we do, and may have been left in any state: settings, a
# role, a level of isolation that waits for others. The ROLLBACK gives it back as it was.
_OPENING_POOLED: Final = (
    "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY NOT DEFERRABLE; RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL"
)
# What RESET ALL has just taken back of what our own login asked for.
_OWN_SESSION: Final = {"application_name": APPLICATION_NAME, "client_encoding": "UTF8"}
# A client that the network took away says no goodbye, and by default a server waits for it for two hours: after every
# silence it would hold as many idle sessions more as the pool has. The client's own probes come first (see dial_loop),
# so that these are sent only when those do not arrive: a dead one is gone after 25 s. A backend that computes notices
# later, and is bounded by statement_timeout: client_connection_check_interval is not known before PostgreSQL 14.
_NOTICE_DEAD_CLIENT: Final = {
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "20000",
}
# Somebody's temporary table would be found before the real one unless the path names its schema, last.
_NO_TEMPORARY_TABLES: Final = (
    "SELECT pg_catalog.set_config('search_path', "
    "pg_catalog.concat_ws(', ', nullif(pg_catalog.current_setting('search_path'), ''), 'pg_temp'), true)"
)


def _quoted_names(names: Sequence[str]) -> str:
    return ", ".join('"' + name.replace('"', '""') + '"' for name in names)


def session_settings(profile: Profile) -> dict[str, str]:
    """Return what a session of the profile starts with; RESET ALL returns to these values."""
    limits = profile.limits
    settings = {
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
        settings["search_path"] = _quoted_names(profile.search_path)
    return settings


def start_up_settings(profile: Profile, name: str) -> dict[str, str]:
    """Return the parameters of the first packet of a session called `name`; behind a pooler all are called alike.

    The pooler would set another name each time the server connection goes to another client.
    """
    if profile.is_pooled:
        return {"application_name": APPLICATION_NAME}
    return {"application_name": name, **session_settings(profile), **_NOTICE_DEAD_CLIENT}


async def begin_read_only(
    connection: asyncpg.Connection,
    profile: Profile,
    *,
    statement_s: float,
    search_path: Sequence[str] | None = None,
) -> None:
    """Open the transaction that a statement runs in, bounded by `statement_s`. One round trip; ends one that is open.

    search_path: schemas for this transaction instead of the session's.
    """
    rollback = "ROLLBACK; " if connection.is_in_transaction() else ""
    timeout_ms = max(1, round(statement_s * 1000))
    # A little less for locks: of two that end together the server reports the statement's, which misleads.
    lock_ms = max(1, timeout_ms * 9 // 10)
    settings = {"statement_timeout": str(timeout_ms), "lock_timeout": str(lock_ms)}
    if search_path is not None:
        settings["search_path"] = _quoted_names(search_path)
    opening, closing = "BEGIN READ ONLY", ""
    if profile.is_pooled:
        opening, closing = _OPENING_POOLED, f"; {_NO_TEMPORARY_TABLES}"
        settings = {**session_settings(profile), **_OWN_SESSION, **settings}
    lines = [f"SET LOCAL {name} = {_value(name, value)}" for name, value in settings.items()]
    await connection.execute(f"{rollback}{opening}; {'; '.join(lines)}{closing}")


def _value(name: str, value: str) -> str:
    """Return a value as SET wants it: the names of a path are quoted already, one by one."""
    return value if name == "search_path" else f"'{value}'"
