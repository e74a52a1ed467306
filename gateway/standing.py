"""What a server is among the copies of its database: primary or standby, on which timeline, and how far behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import asyncpg

from gateway.profiles import Profile
from gateway.session import begin_read_only

_ASK_S: Final = 5.0
_IS_STANDBY: Final = "SELECT pg_catalog.pg_is_in_recovery() AS is_standby"
# Both functions are open to every role, unless somebody has revoked them.
_STANDING: Final = f"""{_IS_STANDBY},
  CASE WHEN NOT pg_catalog.pg_is_in_recovery()
    THEN pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()) END AS segment,
  (SELECT system_identifier FROM pg_catalog.pg_control_system()) AS system"""
# A role without pg_read_all_stats sees of the receiver that it runs, and no more. What was received and is not replayed
# yet is all that a standby knows of its lag: what the primary has not sent, it cannot see.
_REPLICATION: Final = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_stat_wal_receiver) AS is_streaming,
  pg_catalog.pg_is_wal_replay_paused() AS is_paused,
  greatest(0, pg_catalog.pg_wal_lsn_diff(received, replayed))::bigint AS lag_bytes,
  received <= replayed AS is_level,
  extract(epoch FROM pg_catalog.clock_timestamp() - pg_catalog.pg_last_xact_replay_timestamp()) AS age_s
FROM (
  SELECT pg_catalog.pg_last_wal_receive_lsn() AS received, pg_catalog.pg_last_wal_replay_lsn() AS replayed
) AS wal"""

# What a server counts is lost in a crash, and counted anew from then on; an orderly stop keeps it (backend_status and
# pgstat in PostgreSQL's source: pgstat_discard_stats).
_COUNTED: Final = """
SELECT extract(epoch FROM pg_catalog.clock_timestamp() - stats_reset) AS age_s FROM pg_catalog.pg_stat_bgwriter"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A server's role. timeline: a primary's, 0 where unknown. system: which database system, empty where unknown."""

    is_standby: bool
    timeline: int = 0
    system: str = ""

    def __str__(self) -> str:
        """Return it in words: `a standby`, `a primary on timeline 3`."""
        if self.is_standby:
            return "a standby"
        return f"a primary on timeline {self.timeline}" if self.timeline else "a primary"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replication:
    """How a standby follows.

    lag_bytes, lag_s: what it has received and not replayed yet, and for how long. age_s: since the last transaction
    that it has replayed. None where the server does not know.
    """

    is_streaming: bool
    is_paused: bool
    lag_bytes: int | None
    lag_s: float | None
    age_s: float | None


def reported_role(connection: asyncpg.Connection) -> bool | None:
    """Return whether the server said last that it is a standby; None before PostgreSQL 14. No round trip.

    It says so at the login, and of a promotion along with the reply to the next statement.
    """
    said = getattr(connection.get_settings(), "in_hot_standby", None)
    return None if said is None else said == "on"


async def standing_of(connection: asyncpg.Connection, profile: Profile) -> Standing:
    """Ask a server what it is: two round trips, four behind a pooler."""
    try:
        known = await _row(connection, profile, _STANDING)
    except asyncpg.InsufficientPrivilegeError:
        known = await _row(connection, profile, _IS_STANDBY)
    segment = known.get("segment")
    # The first eight hexadecimal digits of a segment's name are its timeline.
    return Standing(
        is_standby=known["is_standby"] == "t",
        timeline=int(segment[:8], 16) if segment else 0,
        system=known.get("system") or "",
    )


async def has_crashed(connection: asyncpg.Connection, profile: Profile, *, within_s: float) -> bool:
    """Say whether the server went down within the last so many seconds, or may have: where it does not tell, it may."""
    try:
        age_s = (await _row(connection, profile, _COUNTED)).get("age_s")
    except asyncpg.InsufficientPrivilegeError:
        return True
    return age_s is not None and float(age_s) <= within_s


async def replication_of(connection: asyncpg.Connection, profile: Profile) -> Replication:
    """Ask a standby how it follows."""
    known = await _row(connection, profile, _REPLICATION)
    lag_bytes = known["lag_bytes"]
    age_s = None if known["age_s"] is None else max(0.0, float(known["age_s"]))
    return Replication(
        is_streaming=known["is_streaming"] == "t",
        is_paused=known["is_paused"] == "t",
        lag_bytes=None if lag_bytes is None else int(lag_bytes),
        # A primary that writes nothing makes the last transaction old, and the standby no worse.
        lag_s=0.0 if known["is_level"] == "t" else age_s,
        age_s=age_s,
    )


async def _row(connection: asyncpg.Connection, profile: Profile, sql: str) -> dict[str, str | None]:
    """Return the one row of a statement, as text like everything on our connections."""
    if not profile.is_pooled:
        row = await connection.fetchrow(sql)
    else:
        # Without a transaction, a pooler may send the statement to one server and its execution to another.
        await begin_read_only(connection, profile, statement_s=_ASK_S)
        try:
            row = await connection.fetchrow(sql)
        finally:
            await connection.execute("ROLLBACK")
    return dict(row) if row is not None else {}
