"""A deadline is an instant: whoever asks later has less left."""

from __future__ import annotations

import time

import pytest

from gateway.deadline import Deadline


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
