"""What a caller is told while it waits: what its call waits for, what is tried again and why, how much time is left.

`Waiting` is what a call says of itself. `Progress` takes it to the caller in its own time: one that reads slowly, or no
longer, neither slows the call nor fails it, and hears nothing more once the call is over.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from gateway.deadline import AWAITED, Clock, Deadline, Stages

logger = logging.getLogger(__name__)

_EVERY_S: Final = 1.0
# Each notification has to be above the one before it, however quickly they follow.
_STEP_S: Final = 0.01
# What a caller that reads slowly has not been told yet is forgotten beyond these.
_UNTOLD: Final = 8
_WHY_CHARS: Final = 200
# Progress so far, its total where it is known, and words for people.
Send = Callable[[float, float | None, str], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Where a call stands.

    stages: what it waits for, kept up to date by the call. retries: how often it was tried again, `why` being what the
    last try met and `tried_until` when that is no longer worth another one.
    """

    profile: str
    deadline: Deadline
    stages: Stages
    retries: int = 0
    why: str | None = None
    tried_until: Deadline | None = None

    def left_s(self) -> float:
        """Return the seconds until the call is given up."""
        # Past that instant the call has got further, or it would be over.
        tried_s = self.tried_until.left() if self.tried_until is not None else 0.0
        return self.deadline.left(at_most=tried_s if tried_s > 0 else None)

    def _reason(self) -> str:
        why = " ".join((self.why or "").split())
        return why if len(why) <= _WHY_CHARS else why[:_WHY_CHARS] + "…"

    def news(self) -> str:
        """Return what was met and that the call is tried again."""
        return f"{self.profile}: {self._reason()}; trying again ({self.retries}), {self.left_s():.0f} s left"

    def text(self, tool: str) -> str:
        """Return what the call of `tool` waits for, and why it takes so long if it was tried again."""
        stages = self.stages
        waited_s = stages.spent.get(stages.now, 0.0) + stages.clock() - stages.since
        tried = f" (tried again {self.retries} times: {self._reason()})" if self.retries > 1 else ""
        if self.retries == 1:
            tried = f" (tried again once: {self._reason()})"
        awaited = AWAITED[stages.now]
        return f"{self.profile}: {tool} has waited {waited_s:.0f} s for {awaited}, {self.left_s():.0f} s left{tried}"


Tell = Callable[[Waiting], None]


class Progress:
    """`async with Progress(tool, send) as progress`: tells the caller while the body runs, and never after it."""

    def __init__(self, tool: str, send: Send, *, every_s: float = _EVERY_S, clock: Clock = time.monotonic) -> None:
        """Prepare to tell of a call. send: takes one notification to the caller. every_s: without news, this often."""
        self._tool = tool
        self._send = send
        self._every_s = every_s
        self._clock = clock
        self._started = clock()
        self._last = 0.0
        self._waiting: Waiting | None = None
        self._news: deque[Waiting] = deque(maxlen=_UNTOLD)
        self._has_news = asyncio.Event()
        self._courier: asyncio.Task[None] | None = None

    def tell(self, waiting: Waiting) -> None:
        """Take note of where the call stands; what is tried again is passed on at once, the rest when it takes long."""
        self._waiting = waiting
        if waiting.why is not None:
            self._news.append(waiting)
            self._has_news.set()

    async def __aenter__(self) -> Self:
        self._courier = asyncio.create_task(self._carry())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._courier is not None:
            self._courier.cancel()
            await asyncio.wait((self._courier,))

    async def _carry(self) -> None:
        try:
            while True:
                await self._notify(await self._next())
        except Exception:  # whatever is the matter with the caller's ear, its call goes on
            logger.debug("a caller could not be told of its call's progress", exc_info=True)

    async def _next(self) -> str:
        """Return what to say next: news at once, else after a while what the call waits for."""
        try:
            async with asyncio.timeout(self._every_s):
                await self._has_news.wait()
        except TimeoutError:
            if self._waiting is not None:
                return self._waiting.text(self._tool)
            return f"{self._tool} has been running for {self._clock() - self._started:.0f} s"
        waiting = self._news.popleft()
        if not self._news:
            self._has_news.clear()
        return waiting.news()

    async def _notify(self, text: str) -> None:
        spent_s = max(round(self._clock() - self._started, 2), round(self._last + _STEP_S, 2))
        total_s = self._waiting.deadline.budget_s if self._waiting is not None else None
        if total_s is not None and spent_s >= total_s:
            # The time is up and the answer on its way: nothing goes beyond the whole.
            return
        self._last = spent_s
        await self._send(spent_s, total_s, text)
