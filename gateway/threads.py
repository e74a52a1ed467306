"""A few threads of one profile's own for what blocks: name look-ups, files, certificates.

asyncio's shared threads would let a look-up that hangs for one profile hold up all the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

T = TypeVar("T")

_AT_ONCE: Final = 2


class Threads:
    """At most two threads at a time. One that hangs keeps its place until it returns, and is waited for by nobody else.

    They are daemons: a look-up that never ends does not keep the process from ending.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def run(self, work: Callable[..., T], *arguments: Any) -> T:
        """Return what `work` returns, or raise what it raises; a caller that is cancelled leaves it behind."""
        await self._places.acquire()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def done(value: T | None, error: BaseException | None) -> None:
            self._places.release()
            if answer.done():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(value)  # type: ignore[arg-type] # None only beside an error, or where T is None

        def run() -> None:
            value: T | None = None
            failure: BaseException | None = None
            try:
                value = work(*arguments)
            except BaseException as error:  # noqa: BLE001 - it is raised where the answer is awaited
                failure = error
            # The loop may be closed by then; nobody waits any more.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(done, value, failure)

        try:
            threading.Thread(target=run, name=f"{self._name} blocking", daemon=True).start()
        except BaseException:
            self._places.release()
            raise
        return await answer
