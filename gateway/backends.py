"""Backends that work on after their caller was answered: ended over a connection of their own.

Code that checks for no interrupts runs on for as long as it likes (docs/security.md), and a link that went silent
leaves a backend behind that nobody has told.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Final

import asyncpg
from asyncpg.exceptions import InternalClientError

from gateway.connect import Dialler
from gateway.deadline import Deadline
from gateway.errors import GatewayError
from gateway.leases import Backend
from gateway.profiles import Profile

logger = logging.getLogger(__name__)

# What asyncpg raises on a connection that is no more, or is just going: its internal error is one of these.
BROKEN: Final = (TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, InternalClientError, OSError)
# The process number alone could be somebody else's by now; the session's own name tells.
_TERMINATE_SQL: Final = """
SELECT pg_terminate_backend(pid)::text FROM pg_stat_activity WHERE pid = $1::int AND application_name = $2"""
_ASK_S: Final = 5.0
_GIVE_UP_S: Final = 120.0
_LONGEST_WAIT_S: Final = 5.0


class Backends:
    """Ends what a profile's callers have left behind."""

    def __init__(self, profile: Profile, dialler: Dialler) -> None:
        self._profile = profile
        self._dialler = dialler
        self._ending: set[asyncio.Task[None]] = set()

    async def end(self, backend: Backend) -> None:
        """Wait until the backend is gone, while its server can be asked; what cannot be asked now is asked later on.

        Behind a pooler nobody knows which backend it was.
        """
        if self._profile.is_pooled:
            return
        wait_s, give_up = 0.1, time.monotonic() + _GIVE_UP_S
        while time.monotonic() < give_up:
            try:
                if await self._is_gone(backend):
                    return
            except (GatewayError, *BROKEN) as error:
                logger.warning(
                    "profile=%s: backend %d could not be ended yet: %s", self._profile.name, backend.pid, error
                )
                task = asyncio.get_running_loop().create_task(self._end_later(backend, give_up))
                self._ending.add(task)
                task.add_done_callback(self._ending.discard)
                return
            logger.warning(
                "profile=%s: backend %d ignored the cancel and was told to end", self._profile.name, backend.pid
            )
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)

    async def _end_later(self, backend: Backend, give_up: float) -> None:
        while time.monotonic() < give_up:
            await asyncio.sleep(_LONGEST_WAIT_S)
            with contextlib.suppress(GatewayError, *BROKEN):
                if await self._is_gone(backend):
                    return

    async def _is_gone(self, backend: Backend) -> bool:
        """Tell the backend to end; return whether there was none any more."""
        deadline = Deadline.after(_ASK_S)
        control = await self._dialler.dial(backend.endpoint, deadline=deadline)
        try:
            async with deadline.scope():
                return await control.fetchval(_TERMINATE_SQL, str(backend.pid), backend.name) is None
        finally:
            control.terminate()

    async def close(self) -> None:
        """Leave the rest to the server's own timeouts."""
        for task in self._ending:
            task.cancel()
        if self._ending:
            await asyncio.wait(self._ending)
