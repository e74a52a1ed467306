"""A call that its client takes back, or that nobody waits for any more, ends its statement within one second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.clients import ERAS, Era, Wire, call_message, headers, initialize, over_http, over_stdio, wire
from tests.support.databases import SLOW, ended, running
from tests.support.gateway import write_profiles
from tests.support.polling import until
from tests.support.postgres import Database, Pair
from tests.support.processes import Serving, serving

pytestmark = pytest.mark.anyio

ENDED_S = 1.0
# For a shell's `printf … | pg-gateway serve`, whose other end still reads.
LAST_ANSWERS_S = 0.75
EVENTS = "application/json, text/event-stream"
REQUEST_CANCELLED = -32800
# Long enough for a notification to come if there were one.
LONGER = "SELECT count(*) FROM generate_series(1, 8000000)"


@pytest.fixture(params=ERAS)
def era(request: pytest.FixtureRequest) -> Era:
    era: Era = request.param
    return era


@pytest.fixture
def config(tmp_path: Path, databases: Pair) -> Path:
    return write_profiles(tmp_path, databases)


@pytest.fixture(scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory, databases: Pair) -> AsyncIterator[Serving]:
    async with serving(write_profiles(tmp_path_factory.mktemp("cancel"), databases)) as running:
        yield running
    assert "Traceback" not in running.log


@pytest.fixture
async def http() -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(trust_env=False, timeout=15) as client:
        yield client


async def seconds_to_end(database: Database, mark: str, act: Callable[[], Any]) -> float:
    """Wait until the marked statement runs, act, and return the seconds until it does so no more."""
    assert await until(lambda: running(database, mark))
    started = time.monotonic()
    outcome = act()
    if isinstance(outcome, Awaitable):
        await outcome
    assert await until(lambda: ended(database, mark))
    return time.monotonic() - started


# What a client that speaks in lines may do: take its call back, close its end, or vanish.
def _takes_back(opened: Wire, call_id: int) -> None:
    opened.notify("notifications/cancelled", requestId=call_id, reason="enough")


def _closes_stdin(opened: Wire, _call_id: int) -> None:
    assert opened.process.stdin is not None
    opened.process.stdin.close()


def _vanishes(opened: Wire, _call_id: int) -> None:
    transport: Any = opened.process._transport  # type: ignore[attr-defined] # nothing public closes stdout alone
    transport.get_pipe_transport(1).close()
    transport.get_pipe_transport(0).close()


@pytest.mark.parametrize("asks", [True, False], ids=["told of progress", "not told"])
@pytest.mark.parametrize("way", [_takes_back, _closes_stdin, _vanishes])
async def test_over_stdio(
    config: Path, databases: Pair, era: Era, way: Callable[[Wire, int], None], *, asks: bool
) -> None:
    mark = f"-- stdio {way.__name__} {era} {asks}"
    async with wire(config, era) as opened:
        call_id = opened.start_call("execute_query", query=f"{SLOW} {mark}", meta={"progressToken": 1} if asks else {})
        seconds = await seconds_to_end(databases.first, mark, lambda: way(opened, call_id))
    assert seconds < ENDED_S
    assert "Traceback" not in opened.log


async def test_over_stdio_a_client_that_vanishes_is_not_granted_what_one_that_closes_stdin_is(
    config: Path, databases: Pair, era: Era
) -> None:
    mark = f"-- missed {era}"
    async with wire(config, era) as opened:
        opened.start_call("execute_query", query=f"{SLOW} {mark}")
        seconds = await seconds_to_end(databases.first, mark, lambda: _vanishes(opened, 0))
    assert seconds < LAST_ANSWERS_S


async def test_over_stdio_nothing_is_said_of_a_call_that_was_taken_back(
    config: Path, databases: Pair, era: Era
) -> None:
    mark = f"-- silent {era}"
    async with wire(config, era) as opened:
        call_id = opened.start_call("execute_query", query=f"{SLOW} {mark}", meta={"progressToken": 1})
        await seconds_to_end(databases.first, mark, lambda: _takes_back(opened, call_id))
        opened.others.clear()
        assert (await opened.call("execute_query", query=LONGER))["rows"] == [[8_000_000]]
    assert opened.others == []


async def test_over_http_a_client_that_hangs_up_before_the_answer_begins(
    served: Serving, databases: Pair, http: httpx2.AsyncClient, era: Era
) -> None:
    mark = f"-- hangs up {era}"
    message = call_message(era, "execute_query", {"query": f"{SLOW} {mark}"})
    call = asyncio.create_task(http.post(served.url, json=message, headers=headers(era, message)))

    assert await seconds_to_end(databases.first, mark, call.cancel) < ENDED_S


async def test_over_http_a_client_that_closes_its_stream(
    served: Serving, databases: Pair, http: httpx2.AsyncClient, era: Era
) -> None:
    mark = f"-- closes its stream {era}"
    message = call_message(era, "execute_query", {"query": f"{SLOW} {mark}"}, progressToken="a token")
    fields = headers(era, message, accept=EVENTS)

    async with http.stream("POST", served.url, json=message, headers=fields) as reply:
        assert reply.headers["content-type"] == "text/event-stream"
        # Named, since a forgotten iterator closes the stream by itself.
        stream = reply.aiter_text()
        assert "notifications/progress" in await anext(stream)
        seconds = await seconds_to_end(databases.first, mark, reply.aclose)

    assert seconds < ENDED_S


async def session(http: httpx2.AsyncClient, url: str) -> dict[str, str]:
    """Return the header of a new session."""
    greeting = await http.post(url, json=initialize("2025-11-25"), headers={"accept": EVENTS})
    return {"mcp-session-id": greeting.headers["mcp-session-id"]}


def take_back(http: httpx2.AsyncClient, url: str, call_id: Any, **more: str) -> Awaitable[httpx2.Response]:
    message = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": call_id}}
    return http.post(url, json=message, headers=headers("2025-11-25", message) | more)


@pytest.mark.parametrize("asks", [True, False], ids=["told of progress", "not told"])
@pytest.mark.parametrize("call_id", [7, "seven"])
async def test_over_http_a_client_that_takes_its_call_back(
    served: Serving, databases: Pair, http: httpx2.AsyncClient, call_id: Any, *, asks: bool
) -> None:
    mark = f"-- takes back {call_id} {asks}"
    own = await session(http, served.url)
    meta = {"progressToken": 1} if asks else {}
    message = call_message("2025-11-25", "execute_query", {"query": f"{SLOW} {mark}"}, id=call_id, **meta)
    fields = headers("2025-11-25", message, accept=EVENTS) | own
    call = asyncio.create_task(http.post(served.url, json=message, headers=fields))

    seconds = await seconds_to_end(databases.first, mark, lambda: take_back(http, served.url, call_id, **own))

    assert seconds < ENDED_S
    # This era ends a response with an answer only, which clients ignore.
    assert str(REQUEST_CANCELLED) in (await call).text


async def test_over_http_nobody_takes_back_the_call_of_another_session(
    served: Serving, databases: Pair, http: httpx2.AsyncClient
) -> None:
    mark = "-- another's call"
    own, other = await session(http, served.url), await session(http, served.url)
    message = call_message("2025-11-25", "execute_query", {"query": f"{SLOW} {mark}"}, id=1)
    call = asyncio.create_task(http.post(served.url, json=message, headers=headers("2025-11-25", message) | own))
    assert await until(lambda: running(databases.first, mark))

    for header in (other, {}, {"mcp-session-id": ""}):
        assert (await take_back(http, served.url, 1, **header)).status_code == 202
    assert (await take_back(http, served.url, "1", **own)).status_code == 202

    assert await running(databases.first, mark)
    assert own != other
    assert await seconds_to_end(databases.first, mark, lambda: take_back(http, served.url, 1, **own)) < ENDED_S
    assert (await call).json()["error"]["code"] == REQUEST_CANCELLED


@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_the_client_of_the_sdk_takes_its_call_back(
    served: Serving, config: Path, databases: Pair, era: Era, transport: str
) -> None:
    mark = f"-- sdk {transport} {era}"
    opening = over_http(served.url, era) if transport == "http" else over_stdio(config, era)
    async with opening as client:
        call = asyncio.create_task(client.call_tool("execute_query", {"query": f"{SLOW} {mark}"}))
        seconds = await seconds_to_end(databases.first, mark, call.cancel)
        assert not (await client.call_tool("execute_query", {"query": "SELECT 1"})).is_error
    assert seconds < ENDED_S
