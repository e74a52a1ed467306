"""A gateway that many reach over HTTP: both eras, and what a stranger, a proxy or a dying client may do to it."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp.shared.exceptions import MCPError

from gateway.http import BODY_BYTES
from tests.support.clients import ERAS, Era, body, call_message, headers, initialize, over_http
from tests.support.databases import SLOW, ended, running
from tests.support.gateway import write_profiles
from tests.support.polling import until
from tests.support.postgres import Pair
from tests.support.processes import Serving, environment, run, serving

pytestmark = pytest.mark.anyio

EVENTS = "application/json, text/event-stream"


@pytest.fixture(params=ERAS)
def era(request: pytest.FixtureRequest) -> Era:
    era: Era = request.param
    return era


@pytest.fixture(scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory, databases: Pair) -> AsyncIterator[Serving]:
    async with serving(write_profiles(tmp_path_factory.mktemp("served"), databases)) as running:
        yield running


@pytest.fixture
async def http() -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(trust_env=False, timeout=15) as client:
        yield client


def query(era: Era, text: str, **meta: Any) -> dict[str, Any]:
    return call_message(era, "execute_query", {"query": text}, **meta)


async def test_the_client_of_the_sdk_finds_and_calls_the_tools(served: Serving, databases: Pair, era: Era) -> None:
    async with over_http(served.url, era) as client:
        assert client.protocol_version == era
        assert len((await client.list_tools()).tools) == 6
        for name, database in zip(("first", "second"), databases, strict=True):
            result = await client.call_tool("execute_query", {"query": "SELECT current_database()", "profile": name})
            assert body(result)["rows"] == [[database.name]]
        with pytest.raises(MCPError) as caught:
            await client.call_tool("drop_tables", {})
        assert caught.value.error.code == -32602
        refused = await client.call_tool("execute_query", {"query": "DELETE FROM orders"})
        assert refused.is_error
        assert body(refused)["error"]["code"] == "unsafe_sql"


async def test_with_every_database_down_the_tools_are_listed(tmp_path: Path) -> None:
    (tmp_path / "profiles.toml").write_text('[profiles.dead]\nuser = "u"\nhost = "127.0.0.1"\nport = 1\n')
    async with serving(tmp_path / "profiles.toml") as down, over_http(down.url, "2025-11-25") as client:
        assert len((await client.list_tools()).tools) == 6
        assert body(await client.call_tool("list_tables", {}))["error"]["code"] == "unavailable"


@pytest.mark.parametrize("accept", ["application/json", EVENTS, "*/*"])
async def test_a_reply_is_json(served: Serving, http: httpx2.AsyncClient, era: Era, accept: str) -> None:
    message = query(era, "SELECT 1 AS one")
    reply = await http.post(served.url, json=message, headers=headers(era, message, accept=accept))

    assert reply.status_code == 200
    assert reply.headers["content-type"] == "application/json"
    assert reply.json()["result"]["structuredContent"]["rows"] == [[1]]
    assert "mcp-session-id" not in reply.headers


async def test_a_caller_who_asked_for_progress_is_told_of_it(served: Serving, era: Era, databases: Pair) -> None:
    told: list[tuple[float, str | None]] = []
    totals: set[float | None] = set()

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, message))
        totals.add(total)

    async with over_http(served.url, era) as client:
        call = asyncio.create_task(
            client.call_tool("execute_query", {"query": f"{SLOW} -- progress"}, progress_callback=on_progress)
        )
        assert await until(lambda: len(told) >= 2)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)

    assert told[0][0] < told[1][0]
    assert totals == {30}
    assert (told[0][1] or "").startswith("first: execute_query has waited 1 s for the statement's answer, 29 s left")
    assert await until(lambda: ended(databases.first, "-- progress"))


async def test_a_caller_who_asked_for_progress_is_told_of_each_try_before_the_answer(
    tmp_path: Path, http: httpx2.AsyncClient, era: Era
) -> None:
    (tmp_path / "profiles.toml").write_text('[profiles.dead]\nuser = "u"\nhost = "127.0.0.1"\nport = 1\n')
    message = call_message(era, "list_tables", {}, progressToken="a token")
    async with serving(tmp_path / "profiles.toml") as down:
        reply = await http.post(down.url, json=message, headers=headers(era, message, accept=EVENTS))

    assert reply.headers["content-type"] == "text/event-stream"
    *told, answer = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: ")]
    assert answer["id"] == 1
    assert answer["result"]["structuredContent"]["error"]["code"] == "unavailable"
    assert {each["method"] for each in told} == {"notifications/progress"}
    assert {each["params"]["progressToken"] for each in told} == {"a token"}
    assert {each["params"]["total"] for each in told} == {30}
    steps = [each["params"]["progress"] for each in told]
    assert steps == sorted(set(steps))
    first = told[0]["params"]["message"]
    assert first.startswith("dead: 127.0.0.1:1 refused the connection; trying again (1), ")
    # A port that never answered is tried for three seconds only.
    assert first.endswith((" 3 s left", " 2 s left"))


async def test_a_quick_reply_is_json_even_with_progress_asked_for(
    served: Serving, http: httpx2.AsyncClient, era: Era
) -> None:
    message = query(era, "SELECT 1", progressToken=1)
    reply = await http.post(served.url, json=message, headers=headers(era, message, accept=EVENTS))
    assert reply.headers["content-type"] == "application/json"


@pytest.mark.parametrize("asks", [True, False])
async def test_a_client_that_goes_away_cancels_its_statement(
    served: Serving, databases: Pair, era: Era, *, asks: bool
) -> None:
    mark = f"-- goes away {era} {asks}"
    message = query(era, f"{SLOW} {mark}", **({"progressToken": 1} if asks else {}))
    async with httpx2.AsyncClient(trust_env=False, timeout=15) as http:
        call = asyncio.create_task(http.post(served.url, json=message, headers=headers(era, message, accept=EVENTS)))
        assert await until(lambda: running(databases.first, mark))
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)

        assert await until(lambda: ended(databases.first, mark), within_s=2)
        message = query(era, "SELECT 1")
        assert (await http.post(served.url, json=message, headers=headers(era, message))).status_code == 200
    assert "call tool=execute_query profile=first outcome=cancelled" in served.log


async def test_fifty_calls_at_once_are_all_answered(served: Serving, era: Era) -> None:
    async with over_http(served.url, era) as client:
        results = await asyncio.gather(
            *(
                client.call_tool("execute_query", {"query": f"SELECT {n} AS n", "profile": ("first", "second")[n % 2]})
                for n in range(50)
            )
        )
    assert [body(result)["rows"] for result in results] == [[[n]] for n in range(50)]


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT"])
async def test_other_methods_are_not_allowed(served: Serving, http: httpx2.AsyncClient, method: str) -> None:
    reply = await http.request(method, served.url, headers={"accept": "text/event-stream"})
    assert reply.status_code == 405
    assert "POST" in reply.headers["allow"]


async def test_a_stranger_s_host_and_origin_are_refused(served: Serving, http: httpx2.AsyncClient) -> None:
    message = query("2025-11-25", "SELECT 1")
    fields = headers("2025-11-25", message)

    async def status(**more: str) -> int:
        return (await http.post(served.url, json=message, headers={**fields, **more})).status_code

    assert await status(host="rebound.example") == 421
    assert await status(origin="http://page.example") == 403
    assert await status(origin=served.base) == 200
    assert await status(host=f"localhost:{served.url.split(':')[2].split('/')[0]}") == 200


# What is sent, the status, and the code of the JSON-RPC error.
MALFORMED: dict[str, tuple[bytes, int, int]] = {
    "half a message": (b'{"jsonrpc": "2.0", "id"', 400, -32700),
    "nothing": (b"", 400, -32700),
    "bytes": (b"\xff\xfe\x00", 400, -32700),
    "a batch": (b'[{"jsonrpc": "2.0", "id": 1, "method": "tools/list"}]', 400, -32600),
    "a number": (b"1", 400, -32600),
    "no version": (b'{"id": 1, "method": "tools/list"}', 400, -32600),
    "an object": (b"{}", 400, -32600),
}


@pytest.mark.parametrize("case", MALFORMED)
async def test_what_is_no_message_is_refused(served: Serving, http: httpx2.AsyncClient, era: Era, case: str) -> None:
    content, status, code = MALFORMED[case]
    fields = {**headers(era, {"method": "tools/list"}), "content-type": "application/json"}
    reply = await http.post(served.url, content=content, headers=fields)
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)


async def test_a_body_that_is_too_large_is_refused(served: Serving, http: httpx2.AsyncClient) -> None:
    message = query("2025-11-25", "SELECT 1" + " " * BODY_BYTES)
    reply = await http.post(served.url, json=message, headers=headers("2025-11-25", message))
    assert reply.status_code == 413


async def test_a_client_that_takes_no_json_is_told(served: Serving, http: httpx2.AsyncClient) -> None:
    message = query("2025-11-25", "SELECT 1")
    reply = await http.post(served.url, json=message, headers=headers("2025-11-25", message, accept="text/html"))
    assert reply.status_code == 406


async def test_a_notification_is_accepted(served: Serving, http: httpx2.AsyncClient) -> None:
    message = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    reply = await http.post(served.url, json=message, headers=headers("2025-11-25", message))
    assert (reply.status_code, reply.content) == (202, b"")


async def test_headers_that_contradict_the_body_are_refused(served: Serving, http: httpx2.AsyncClient) -> None:
    message = query("2026-07-28", "SELECT 1")
    fields = headers("2026-07-28", message) | {"mcp-name": "list_tables"}
    reply = await http.post(served.url, json=message, headers=fields)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, -32020)


@pytest.mark.parametrize("asked", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"])
async def test_each_version_with_a_handshake_is_spoken(served: Serving, http: httpx2.AsyncClient, asked: str) -> None:
    message = initialize(asked)
    reply = await http.post(served.url, json=message, headers={"accept": EVENTS})
    assert reply.json()["result"]["protocolVersion"] == asked
    assert "first" in reply.json()["result"]["instructions"]


async def test_the_health_of_the_process_is_told_to_anybody(served: Serving, http: httpx2.AsyncClient) -> None:
    reply = await http.get(f"{served.base}/healthz")
    assert (reply.status_code, reply.json()) == (200, {"status": "ok"})
    assert (await http.get(f"{served.base}/")).status_code == 404


async def test_a_token_is_asked_of_every_call(tmp_path: Path, databases: Pair, http: httpx2.AsyncClient) -> None:
    message = query("2025-11-25", "SELECT 1")
    config = write_profiles(tmp_path, databases)
    async with serving(config, environ=environment(PG_GATEWAY_TOKEN="open sesame")) as served:

        async def status(**more: str) -> int:
            fields = headers("2025-11-25", message) | more
            return (await http.post(served.url, json=message, headers=fields)).status_code

        assert await status() == 401
        assert await status(authorization="Bearer wrong") == 401
        assert await status(authorization="Basic open sesame") == 401
        assert await status(authorization="Bearer open sesame") == 200
        assert (await http.get(f"{served.base}/healthz")).status_code == 200
        async with over_http(served.url, "2026-07-28", token="open sesame") as client:
            assert len((await client.list_tools()).tools) == 6
        assert "sesame" not in served.log


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "gateway.example:8765"])
async def test_an_open_address_needs_a_token(tmp_path: Path, address: str) -> None:
    refused = await run("serve", "--http", address, cwd=tmp_path)
    assert refused.code == 2
    assert "PG_GATEWAY_TOKEN" in refused.err
    assert "--insecure" in refused.err


@pytest.mark.parametrize(("option", "variables"), [("--insecure", {}), (None, {"PG_GATEWAY_TOKEN": "open sesame"})])
async def test_an_open_address_with_a_token_or_a_word_for_it_starts(
    tmp_path: Path, databases: Pair, http: httpx2.AsyncClient, option: str | None, variables: dict[str, str]
) -> None:
    config = write_profiles(tmp_path, databases)
    message = query("2025-11-25", "SELECT 1")
    fields = headers("2025-11-25", message) | {"authorization": "Bearer open sesame"}
    options = [option] if option else []
    async with serving(config, *options, address="0.0.0.0:0", environ=environment(**variables)) as served:
        url = served.url.replace("0.0.0.0", "127.0.0.1")
        assert (await http.post(url, json=message, headers=fields)).status_code == 200
        if option:
            # Without a token, a page that rebinds its name to this address must not get in.
            assert (await http.post(url, json=message, headers=fields | {"host": "page.example"})).status_code == 421


async def test_ipv6_is_served_where_there_is_one(tmp_path: Path, databases: Pair, http: httpx2.AsyncClient) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error.strerror}")
    async with serving(write_profiles(tmp_path, databases), address="[::1]:0") as served:
        assert served.url.startswith("http://[::1]:")
        message = query("2025-11-25", "SELECT 1")
        assert (await http.post(served.url, json=message, headers=headers("2025-11-25", message))).status_code == 200


async def test_a_port_that_is_taken_is_named(tmp_path: Path, databases: Pair) -> None:
    config = write_profiles(tmp_path, databases)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        refused = await run("serve", "--http", address, "--config", str(config))
    assert refused.code == 1
    assert address in refused.err
    assert "in use" in refused.err
    assert "Traceback" not in refused.err


@pytest.mark.parametrize("address", ["localhost", "1.2.3.4:99999", "x:y"])
async def test_an_address_that_is_none_is_explained(tmp_path: Path, address: str) -> None:
    refused = await run("serve", "--http", address, cwd=tmp_path)
    assert refused.code == 2
    assert "HOST:PORT" in refused.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_after_the_last_answer(
    tmp_path: Path, databases: Pair, http: httpx2.AsyncClient, number: signal.Signals
) -> None:
    mark = f"-- last {number.name}"
    message = query("2025-11-25", f"SELECT count(*) FROM generate_series(1, 6000000) {mark}")
    async with serving(write_profiles(tmp_path, databases)) as served:
        call = asyncio.create_task(http.post(served.url, json=message, headers=headers("2025-11-25", message)))
        assert await until(lambda: running(databases.first, mark))
        assert await served.end(number) == 0
        assert json.loads((await call).content)["result"]["structuredContent"]["rows"] == [[6_000_000]]
    assert "Traceback" not in served.log
