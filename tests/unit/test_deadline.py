"""A deadline is an instant: whoever asks later has less left."""

from __future__ import annotations

import time

import pytest

from gateway.deadline import Deadline, Stages


class Clock:
    """Time as the test says."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_what_is_left_shrinks_to_nothing_and_not_below() -> None:
    clock = Clock()
    deadline = Deadline.after(30, clock=clock)

    assert (deadline.left(), deadline.budget_s) == (30, 30)
    clock.now += 12
    assert deadline.left() == 18
    clock.now += 100
    assert deadline.left() == 0
    assert deadline.budget_s == 30


def test_what_is_left_may_be_tightened_and_never_loosened() -> None:
    deadline = Deadline.after(30, clock=Clock())

    assert deadline.left(at_most=5) == 5
    assert deadline.left(at_most=60) == 30


@pytest.mark.anyio
async def test_a_scope_ends_what_takes_longer() -> None:
    import asyncio

    started = time.monotonic()
    with pytest.raises(TimeoutError):
        async with Deadline.after(0.02).scope():
            await asyncio.Event().wait()
    with pytest.raises(TimeoutError):
        async with Deadline.after(60).scope(at_most=0.02):
            await asyncio.Event().wait()
    assert time.monotonic() - started < 5


@pytest.mark.anyio
async def test_a_scope_without_time_lets_what_needs_none_pass() -> None:
    async with Deadline.after(0).scope():
        answer = 42
    assert answer == 42


def test_stages_add_up_what_was_waited_for_over_all_tries() -> None:
    clock = Clock()
    stages = Stages(clock)
    clock.now += 0.2
    stages.enter("name look-up")
    clock.now += 3
    stages.enter("retry")
    clock.now += 1
    stages.enter("name look-up")
    clock.now += 4

    assert stages.told() == "7.0 s for the name look-up, 1.0 s for the next try, 0.2 s for a free connection"
    assert stages.now == "name look-up"
    assert sum(stages.spent.values()) == pytest.approx(8.2)


def test_a_stage_that_took_no_time_is_not_told() -> None:
    clock = Clock()
    stages = Stages(clock)
    stages.enter("statement")
    clock.now += 5

    assert stages.told() == "5.0 s for the statement's answer"
