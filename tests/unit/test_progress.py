"""What a waiting caller is told: the words, their order, and that a caller who does not listen costs nothing."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

import pytest

from gateway.deadline import Deadline, Stage, Stages
from gateway.progress import Progress, Waiting
from tests.support.polling import until

pytestmark = pytest.mark.anyio

WHY = "db:5432 refused the connection"


@dataclass
class Clock:
    """A time that goes by when it is told to."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


class Caller:
    """A caller that keeps what it is told; it listens only while `listens` is set."""

    def __init__(self) -> None:
        self.told: list[tuple[float, float | None, str]] = []
        self.listens = asyncio.Event()
        self.listens.set()

    async def __call__(self, progress: float, total: float | None, message: str) -> None:
        await self.listens.wait()
        self.told.append((progress, total, message))


def waiting(clock: Clock, *, call_s: float = 30) -> Waiting:
    return Waiting(profile="azure_dev", deadline=Deadline.after(call_s, clock=clock), stages=Stages(clock))


def tried_again(before: Waiting, number: int, *, left_s: float = 30, why: str = WHY) -> Waiting:
    until = Deadline.after(left_s, clock=before.deadline.clock)
    return replace(before, retries=number, why=why, tried_until=until)


async def test_a_try_is_told_with_its_reason_and_the_time_left() -> None:
    clock = Clock()
    call = waiting(clock)
    clock.now += 7

    assert tried_again(call, 2).news() == "azure_dev: db:5432 refused the connection; trying again (2), 23 s left"


async def test_the_time_left_is_that_of_the_tries_while_it_lasts() -> None:
    clock = Clock()
    call = tried_again(waiting(clock), 1, left_s=3)
    assert call.news().endswith("trying again (1), 3 s left")
    clock.now += 4
    # The call goes on, so the connection came about.
    assert ", 26 s left" in call.text("list_tables")


@pytest.mark.parametrize(
    ("stage", "awaited"),
    [
        ("pool", "a free connection"),
        ("name look-up", "the name look-up"),
        ("connect", "the server to accept the connection"),
        ("TLS", "the TLS handshake"),
        ("login", "the login"),
        ("statement", "the statement's answer"),
        ("retry", "the next try"),
    ],
)
async def test_what_is_waited_for_is_told(stage: Stage, awaited: str) -> None:
    clock = Clock()
    call = waiting(clock)
    call.stages.enter(stage)
    clock.now += 12

    assert call.text("list_tables") == f"azure_dev: list_tables has waited 12 s for {awaited}, 18 s left"


@pytest.mark.parametrize(("number", "said"), [(1, "tried again once"), (3, "tried again 3 times")])
async def test_a_long_wait_says_why_it_was_tried_again(number: int, said: str) -> None:
    assert tried_again(waiting(Clock()), number).text("list_tables").endswith(f"({said}: {WHY})")


async def test_a_reason_is_one_line_and_short() -> None:
    news = tried_again(waiting(Clock()), 1, why="one\ntwo " + "x" * 5000).news()
    assert news.startswith("azure_dev: one two xxx")
    assert len(news) < 300


async def test_tries_are_told_in_their_order_and_each_is_further_than_the_one_before() -> None:
    clock, caller = Clock(), Caller()
    call = waiting(clock)
    async with Progress("list_tables", caller, clock=clock) as progress:
        progress.tell(call)
        for number in range(1, 6):
            progress.tell(tried_again(call, number))
        assert await until(lambda: len(caller.told) == 5)

    assert [f"({number})" in caller.told[number - 1][2] for number in range(1, 6)] == [True] * 5
    # At one and the same instant: the protocol wants each to be above the last.
    assert [told[0] for told in caller.told] == [0.01, 0.02, 0.03, 0.04, 0.05]
    assert {told[1] for told in caller.told} == {30}


async def test_without_news_it_tells_now_and_then_that_the_call_goes_on() -> None:
    clock, caller = Clock(), Caller()
    async with Progress("list_tables", caller, every_s=0.01, clock=clock) as progress:
        assert await until(lambda: len(caller.told) >= 2)
        assert caller.told[0][1:] == (None, "list_tables has been running for 0 s")
        progress.tell(waiting(clock))
        assert await until(lambda: caller.told[-1][1] == 30)
    assert caller.told[-1][2].startswith("azure_dev: list_tables has waited 0 s for a free connection")


async def test_nothing_is_told_after_the_call() -> None:
    clock, caller = Clock(), Caller()
    call = waiting(clock)
    async with Progress("list_tables", caller, every_s=0.001, clock=clock) as progress:
        assert await until(lambda: len(caller.told) >= 1)
        # What is still to be told at the end is dropped.
        caller.listens.clear()
        progress.tell(tried_again(call, 1))
    told = len(caller.told)
    caller.listens.set()
    progress.tell(tried_again(call, 2))
    for _ in range(10):
        await asyncio.sleep(0)

    assert len(caller.told) == told


async def test_a_caller_who_does_not_listen_holds_nothing_up_and_hears_the_newest_later() -> None:
    clock, caller = Clock(), Caller()
    call = waiting(clock)
    caller.listens.clear()
    async with Progress("list_tables", caller, clock=clock) as progress:
        for number in range(1, 1001):
            progress.tell(tried_again(call, number))
        caller.listens.set()
        assert await until(lambda: any("(1000)" in told[2] for told in caller.told))
    assert len(caller.told) < 20


async def test_a_caller_whose_ear_fails_does_not_fail_the_call() -> None:
    async def broken(_progress: float, _total: float | None, _message: str) -> None:
        raise ConnectionResetError

    clock = Clock()
    async with Progress("list_tables", broken, every_s=0.001, clock=clock) as progress:
        progress.tell(tried_again(waiting(clock), 1))
        courier = progress._courier
        assert courier is not None
        assert await until(courier.done)
        progress.tell(tried_again(waiting(clock), 2))


async def test_nothing_is_told_beyond_the_whole() -> None:
    clock, caller = Clock(), Caller()
    call = waiting(clock)
    async with Progress("list_tables", caller, every_s=0.001, clock=clock) as progress:
        progress.tell(call)
        clock.now += 29
        assert await until(lambda: bool(caller.told))
        clock.now += 2
        told = len(caller.told)
        progress.tell(tried_again(call, 1))
        assert not await until(lambda: len(caller.told) > told + 1, within_s=0.1)
    assert max(told[0] for told in caller.told) < 30


async def test_a_call_that_is_cancelled_stays_cancelled() -> None:
    caller = Caller()

    async def call() -> None:
        async with Progress("list_tables", caller):
            await asyncio.Event().wait()

    task = asyncio.create_task(call())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait((task,))
    assert task.cancelled()
