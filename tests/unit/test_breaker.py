from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from gateway.breaker import PROBE_EVERY_S, Breaker
from gateway.errors import Unavailable


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def opened(clock: Clock) -> Breaker:
    breaker = Breaker("prod", clock=clock, wall=lambda: 0.0)
    breaker.admit()
    breaker.failed(Unavailable("db:5432 refused the connection", hint="Is it running?"), is_probe=False)
    return breaker


def test_a_new_breaker_lets_calls_through() -> None:
    breaker = Breaker("prod")

    assert (breaker.admit(), breaker.state) == (False, "closed")


def test_an_open_breaker_says_since_when_why_and_when_it_tries_again() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += 0.5

    with pytest.raises(Unavailable) as caught:
        breaker.admit()

    assert caught.value.message == (
        "profile prod has been unreachable since 00:00:00Z: db:5432 refused the connection; the next try is in 1.5 s"
    )
    assert (caught.value.hint, caught.value.profile, caught.value.details) == (
        "Is it running?",
        "prod",
        {"retry_after_s": 1.5},
    )


def test_one_probe_goes_through_when_its_time_has_come_and_the_others_are_refused() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += PROBE_EVERY_S

    assert breaker.admit()
    assert breaker.state == "half-open"
    with pytest.raises(Unavailable, match=r"a try is under way, the next try is in 2\.0 s"):
        breaker.admit()


def test_the_first_success_closes_it() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += PROBE_EVERY_S
    breaker.admit()

    breaker.succeeded()

    assert (breaker.admit(), breaker.state, breaker.has_answered) == (False, "closed", True)


def test_a_failed_probe_opens_it_for_another_while_and_keeps_the_time_of_the_first_failure() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += PROBE_EVERY_S
    breaker.admit()
    breaker.failed(Unavailable("still down"), is_probe=True)
    clock.now += 0.1

    with pytest.raises(Unavailable, match=r"since 00:00:00Z: still down; the next try is in 1\.9 s"):
        breaker.admit()


def test_a_cancelled_probe_makes_room_for_the_next_one() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += PROBE_EVERY_S
    breaker.admit()

    breaker.released(is_probe=True)

    assert breaker.admit()


def test_a_probe_that_is_silent_keeps_nobody_from_the_next_one() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += PROBE_EVERY_S
    breaker.admit()
    clock.now += PROBE_EVERY_S

    assert breaker.admit()
    breaker.failed(Unavailable("silent"), is_probe=True)
    assert breaker.state == "half-open"
    breaker.succeeded()
    assert breaker.state == "closed"


def test_calls_that_began_before_and_fail_later_do_not_put_the_probe_off() -> None:
    clock = Clock()
    breaker = opened(clock)
    for _ in range(4):
        clock.now += PROBE_EVERY_S / 4
        breaker.failed(Unavailable("db:5432 refused the connection"), is_probe=False)

    assert breaker.admit()


@pytest.mark.anyio
async def test_whoever_pauses_is_woken_by_an_answer_to_another_call() -> None:
    breaker = Breaker("prod")
    pausing = asyncio.create_task(breaker.wait(60.0))
    await asyncio.sleep(0)

    breaker.succeeded()

    done, _ = await asyncio.wait([pausing], timeout=5)
    assert done == {pausing}
