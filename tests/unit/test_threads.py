"""Threads for what blocks: bounded, and nobody waits for one that hangs but its own callers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from gateway.threads import Threads
from tests.support.polling import until

pytestmark = pytest.mark.anyio


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """An event that blocking work waits for; it is opened at the end, whatever happened."""
    event = threading.Event()
    yield event
    event.set()


async def test_the_value_and_the_error_of_the_work_arrive() -> None:
    threads = Threads("db")

    assert await threads.run(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await threads.run(divmod, 7, 0)


async def test_no_more_than_two_run_at_a_time(gate: threading.Event) -> None:
    threads = Threads("db")
    running: list[str] = []

    def work() -> None:
        running.append(threading.current_thread().name)
        gate.wait()

    tasks = [asyncio.create_task(threads.run(work)) for _ in range(5)]
    assert await until(lambda: len(running) == 2)
    for _ in range(20):
        await asyncio.sleep(0)
    assert running == ["db blocking", "db blocking"]
    gate.set()
    await asyncio.gather(*tasks)
    assert len(running) == 5


async def test_work_that_hangs_keeps_its_place_when_its_caller_leaves_and_gives_it_back_when_it_ends(
    gate: threading.Event,
) -> None:
    threads = Threads("db")
    for _ in range(2):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await threads.run(gate.wait)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await threads.run(int)

    gate.set()
    async with asyncio.timeout(5):
        assert await threads.run(int) == 0


async def test_the_threads_of_one_profile_do_not_hold_up_another(gate: threading.Event) -> None:
    stuck, well = Threads("stuck"), Threads("well")
    hanging = [asyncio.create_task(stuck.run(gate.wait)) for _ in range(6)]

    async with asyncio.timeout(5):
        assert await well.run(int) == 0

    gate.set()
    await asyncio.gather(*hanging)
