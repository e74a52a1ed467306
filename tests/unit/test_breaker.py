from __future__ import annotations

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
    breaker.failed(Unavailable("db:5432 refused the connection", hint="Is it running?"))
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
    with pytest.raises(Unavailable, match="a try is under way"):
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
    breaker.failed(Unavailable("still down"))
    clock.now += 0.1

    with pytest.raises(Unavailable, match=r"since 00:00:00Z: still down; the next try is in 1\.9 s"):
        breaker.admit()


def test_a_cancelled_probe_makes_room_for_the_next_one() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += PROBE_EVERY_S
    breaker.admit()

    breaker.released()

    assert breaker.admit()
