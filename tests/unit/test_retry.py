from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from gateway.deadline import Deadline
from gateway.errors import BadQuery, GatewayError, Repeat, Unavailable
from gateway.profiles import RetrySettings
from gateway.retry import UNPROVEN_S, Retry

pytestmark = pytest.mark.anyio


@dataclass
class Time:
    """A clock that only a retry's own waits move."""

    now: float = 0.0
    waits: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


def lost(repeat: Repeat = "always", *, is_unproven: bool = False) -> Unavailable:
    return Unavailable("lost", repeat=repeat, is_unproven=is_unproven)


def failing(*errors: GatewayError) -> Callable[[], Awaitable[str]]:
    left = list(errors)

    async def attempt() -> str:
        if left:
            raise left.pop(0)
        return "answer"

    return attempt


def retry_of(time: Time, *, call_s: float = 30.0, unproven: bool = False, attempts: int | None = None) -> Retry:
    return Retry(
        RetrySettings(attempts=attempts, first_wait_s=1.0, max_wait_s=4.0),
        Deadline.after(call_s, clock=time),
        unproven=unproven,
        sleep=time.sleep,
        chance=lambda: 1.0,
    )


async def test_the_waits_double_up_to_the_longest_one() -> None:
    time = Time()
    retry = retry_of(time)

    assert await retry.run(failing(*[lost()] * 5), before_retry=lambda _: None) == "answer"
    assert (time.waits, retry.retries) == ([1.0, 2.0, 4.0, 4.0, 4.0], 5)


async def test_full_jitter_takes_any_part_of_the_wait() -> None:
    time = Time()
    chances = iter([0.0, 0.25])
    retry = Retry(
        RetrySettings(first_wait_s=1.0, max_wait_s=4.0),
        Deadline.after(30.0, clock=time),
        unproven=False,
        sleep=time.sleep,
        chance=lambda: next(chances),
    )

    await retry.run(failing(lost(), lost()), before_retry=lambda _: None)

    assert time.waits == [0.0, 0.5]


async def test_the_last_tries_come_close_to_the_deadline_and_none_after_it() -> None:
    time = Time()

    with pytest.raises(Unavailable):
        await retry_of(time, call_s=6.4).run(failing(*[lost()] * 50), before_retry=lambda _: None)

    assert time.waits == pytest.approx([1.0, 2.0, 1.7, 0.85, 0.425, 0.2125, 0.10625, 0.053125])
    assert 6.3 < time.now < 6.4


async def test_what_repetition_cannot_mend_is_raised_at_once() -> None:
    time = Time()

    with pytest.raises(BadQuery):
        await retry_of(time).run(failing(BadQuery("typo")), before_retry=lambda _: None)

    assert time.waits == []


async def test_a_statement_that_may_have_crashed_the_server_is_repeated_once() -> None:
    time = Time()

    with pytest.raises(Unavailable):
        await retry_of(time).run(failing(lost("once"), lost("once")), before_retry=lambda _: None)

    assert time.waits == [1.0]


async def test_after_a_crash_the_dial_is_tried_for_as_long_as_there_is_time() -> None:
    time = Time()
    attempt = failing(lost("once"), lost(), lost())

    assert await retry_of(time).run(attempt, before_retry=lambda _: None) == "answer"


async def test_a_mistyped_port_costs_a_few_seconds_until_the_profile_has_answered_once() -> None:
    refused = lost(is_unproven=True)
    unproven, proven = Time(), Time()

    with pytest.raises(Unavailable):
        await retry_of(unproven, unproven=True).run(failing(*[refused] * 50), before_retry=lambda _: None)
    with pytest.raises(Unavailable):
        await retry_of(proven).run(failing(*[refused] * 50), before_retry=lambda _: None)

    assert unproven.now <= UNPROVEN_S
    assert proven.now > 20


async def test_attempts_cap_the_tries() -> None:
    time = Time()

    with pytest.raises(Unavailable):
        await retry_of(time, attempts=2).run(failing(*[lost()] * 5), before_retry=lambda _: None)

    assert len(time.waits) == 1


async def test_each_retry_is_told() -> None:
    told: list[str] = []

    await retry_of(Time()).run(failing(lost(), lost()), before_retry=lambda error: told.append(error.message))

    assert told == ["lost", "lost"]
