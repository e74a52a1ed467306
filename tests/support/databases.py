"""What runs in a database, seen from beside the gateway."""

from __future__ import annotations

from tests.support.postgres import Database

# Minutes of harmless work, in one backend.
SLOW = "SELECT count(*) FROM generate_series(1, 30000) a, generate_series(1, 30000) b"
_RUNNING = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND strpos(query, $1) > 0"


async def running(database: Database, mark: str) -> bool:
    """Say whether a statement with this mark in its text runs, whatever the gateway has put around it."""
    async with database.connection() as looking:
        return bool(await looking.fetchval(_RUNNING, mark))


async def ended(database: Database, mark: str) -> bool:
    """Say whether no statement with this mark runs."""
    return not await running(database, mark)
