"""How often and how long a read is tried again: tenacity, bounded by the call's one deadline."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception
from tenacity.stop import stop_base
from tenacity.wait import wait_base

from gateway.deadline import Deadline
from gateway.errors import GatewayError
from gateway.profiles import RetrySettings

T = TypeVar("T")

# A mistyped port should not cost half a minute: so long, until a profile has answered once.
UNPROVEN_S: Final = 3.0
# A dial and a statement need some round trips.
_TOO_LATE_S: Final = 0.1


TimeLeft = Callable[[GatewayError], float]


def _left(retry_state: RetryCallState, time_left: TimeLeft) -> float:
    error = retry_state.outcome.exception() if retry_state.outcome is not None else None
    return time_left(error) if isinstance(error, GatewayError) else 0.0


class _FullJitter(wait_base):
    """Exponential with full jitter (AWS Architecture Blog, "Exponential Backoff And Jitter").

    Never longer than half of what is left: the last tries come close to the deadline, since a database that is back
    by then should have been asked.
    """

    def __init__(self, settings: RetrySettings, time_left: TimeLeft, *, chance: Callable[[], float]) -> None:
        self._settings = settings
        self._time_left = time_left
        self._chance = chance

    def __call__(self, retry_state: RetryCallState) -> float:
        doubled: float = self._settings.first_wait_s * 2.0 ** min(retry_state.attempt_number - 1, 30)
        wait_s = self._chance() * min(self._settings.max_wait_s, doubled)
        return min(wait_s, _left(retry_state, self._time_left) / 2)


class _Spent(stop_base):
    """Stops when the attempts are used up, or when there is no time for another."""

    def __init__(self, settings: RetrySettings, time_left: TimeLeft) -> None:
        self._settings = settings
        self._time_left = time_left

    def __call__(self, retry_state: RetryCallState) -> bool:
        attempts = self._settings.attempts
        if attempts is not None and retry_state.attempt_number >= attempts:
            return True
        return _left(retry_state, self._time_left) < _TOO_LATE_S


class Retry:
    """One call's tries. `retries` counts those after the first."""

    def __init__(
        self,
        settings: RetrySettings,
        deadline: Deadline,
        *,
        unproven: bool,
        sleep: Callable[[float], Awaitable[None]],
        chance: Callable[[], float] = random.random,
    ) -> None:
        """Prepare a call's tries. unproven: the profile has not answered in this process yet."""
        self._settings = settings
        self._deadline = deadline
        self._started = deadline.clock()
        self._unproven = unproven
        self._sleep = sleep
        self._chance = chance
        self._repeats = 0
        self.retries = 0
        self.reasons: list[str] = []

    def time_left(self, error: GatewayError) -> float:
        """Return the seconds for which what `error` stands for is worth another try."""
        left = self._deadline.left()
        if self._unproven and error.is_unproven:
            spent = self._deadline.clock() - self._started
            return min(left, UNPROVEN_S - spent)
        return left

    def _is_worth_it(self, error: BaseException) -> bool:
        if not isinstance(error, GatewayError) or error.repeat == "never":
            return False
        # The statement may be what brought the server down.
        return self.crashed() if error.repeat == "once" else True

    def crashed(self) -> bool:
        """Take note that the server went down, or may have, under the statement; say whether it may be repeated."""
        self._repeats += 1
        return self._repeats == 1

    async def run(self, attempt: Callable[[], Awaitable[T]], *, before_retry: Callable[[GatewayError], None]) -> T:
        """Return what `attempt` returns, tried again for as long as it may mend; raises its last error."""

        def note(state: RetryCallState) -> None:
            self.retries += 1
            error = state.outcome.exception() if state.outcome is not None else None
            if isinstance(error, GatewayError):
                self.reasons.append(error.message)
                before_retry(error)

        tries = AsyncRetrying(
            retry=retry_if_exception(self._is_worth_it),
            wait=_FullJitter(self._settings, self.time_left, chance=self._chance),
            stop=_Spent(self._settings, self.time_left),
            before_sleep=note,
            sleep=self._sleep,
            reraise=True,
        )
        return await tries(attempt)
