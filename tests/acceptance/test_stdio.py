"""A gateway as a client starts it: a process on stdin and stdout, in both eras of the protocol."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from mcp.client import Client
from mcp.shared.exceptions import MCPError

from tests.support.clients import ERAS, Era, Wire, body, call_message, initialize, over_stdio, wire
from tests.support.databases import SLOW, ended, running
from tests.support.gateway import write_profiles
from tests.support.polling import until
from tests.support.postgres import Pair
from tests.support.processes import command, run_program

pytestmark = pytest.mark.anyio

TOOLS = ["list_tables", "describe_table", "read_table", "execute_query", "get_table_stats", "search_tables"]
DOWN = """
default = "dead"
[profiles.dead]
host = "127.0.0.1"
port = 1
user = "reader"
database = "shop"
[profiles.lost]
host = "nowhere.invalid"
user = "reader"
"""


@pytest.fixture(params=ERAS)
def era(request: pytest.FixtureRequest) -> Era:
    era: Era = request.param
    return era


@pytest.fixture
def config(tmp_path: Path, databases: Pair) -> Path:
    return write_profiles(tmp_path, databases)


@pytest.fixture
def down(tmp_path: Path) -> Path:
    file = tmp_path / "profiles.toml"
    file.write_text(DOWN)
    return file


@pytest.fixture(scope="module")
async def clients(tmp_path_factory: pytest.TempPathFactory, databases: Pair) -> AsyncIterator[dict[Era, Client]]:
    """Give a client of each era, shared by the tests that only ask: a start takes most of a second."""
    config = write_profiles(tmp_path_factory.mktemp("shared"), databases)
    async with over_stdio(config, "2025-11-25") as older, over_stdio(config, "2026-07-28") as newer:
        yield {"2025-11-25": older, "2026-07-28": newer}


@pytest.fixture(scope="module")
async def wires(tmp_path_factory: pytest.TempPathFactory, databases: Pair) -> AsyncIterator[dict[Era, Wire]]:
    """Give a bare wire of each era, shared by the tests that do not end it."""
    config = write_profiles(tmp_path_factory.mktemp("wires"), databases)
    async with wire(config, "2025-11-25") as older, wire(config, "2026-07-28") as newer:
        yield {"2025-11-25": older, "2026-07-28": newer}
        assert (await older.close(), await newer.close()) == (0, 0)
    assert "Traceback" not in older.log


@pytest.fixture
def opened(wires: dict[Era, Wire], era: Era) -> Wire:
    return wires[era]


@pytest.fixture
def client(clients: dict[Era, Client], era: Era) -> Client:
    return clients[era]


async def test_with_every_database_down_the_tools_are_listed_at_once_and_the_dead_one_is_named(
    down: Path, era: Era
) -> None:
    started = time.monotonic()
    async with over_stdio(down, era) as client:
        tools = (await client.list_tools()).tools
        seconds = time.monotonic() - started
        dead = body(await client.call_tool("list_tables", {}))["error"]
        lost = body(await client.call_tool("list_tables", {"profile": "lost"}))["error"]

    assert [tool.name for tool in tools] == TOOLS
    # Mostly Python's own start; a dial to a dead host would take longer.
    assert seconds < 5
    assert (dead["code"], dead["profile"], dead["retryable"]) == ("unavailable", "dead", True)
    assert "127.0.0.1:1 refused the connection" in dead["message"]
    assert (lost["code"], lost["profile"], lost["retryable"]) == ("unavailable", "lost", True)
    assert "nowhere.invalid" in lost["message"]


async def test_each_tool_says_what_it_is_and_takes_nothing_unknown(client: Client, era: Era) -> None:
    assert client.protocol_version == era
    for tool in (await client.list_tools()).tools:
        assert tool.title
        assert tool.description
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint is True
        assert tool.input_schema["additionalProperties"] is False
        assert tool.output_schema is not None
        jsonschema.Draft202012Validator.check_schema(tool.input_schema)
        jsonschema.Draft202012Validator.check_schema(tool.output_schema)


async def test_each_answer_fits_the_schema_that_was_listed(client: Client) -> None:
    calls: dict[str, dict[str, Any]] = {
        "list_tables": {},
        "describe_table": {"table_name": "orders"},
        "read_table": {"table_name": "customers", "limit": 3},
        "execute_query": {"query": "SELECT 1 AS one"},
        "get_table_stats": {"table_name": "orders"},
        "search_tables": {"search_term": "order"},
    }
    schemas = {tool.name: tool.output_schema for tool in (await client.list_tools()).tools}

    for tool, arguments in calls.items():
        result = await client.call_tool(tool, arguments)
        assert not result.is_error, body(result)
        jsonschema.validate(body(result), schemas[tool] or {})
        assert body(result)["profile"] == "first"


async def test_a_profile_that_is_named_is_the_one_that_answers(client: Client, databases: Pair) -> None:
    for name, database in zip(("first", "second"), databases, strict=True):
        result = await client.call_tool("execute_query", {"query": "SELECT current_database()", "profile": name})
        assert body(result)["rows"] == [[database.name]]


async def test_an_unknown_tool_is_an_error_of_the_protocol(client: Client) -> None:
    with pytest.raises(MCPError) as caught:
        await client.call_tool("drop_tables", {})

    assert caught.value.error.code == -32602
    assert "drop_tables" in caught.value.error.message


# What the caller did, what the answer's code is, and words that its message and hint must have.
MISTAKES: dict[str, tuple[str, dict[str, Any], str, str, str]] = {
    "a missing argument": ("describe_table", {}, "invalid_arguments", "needs table_name", "schema.table"),
    "an argument it has not": (
        "read_table",
        {"table": "orders"},
        "invalid_arguments",
        "no argument 'table'",
        "Did you mean table_name?",
    ),
    "a text for a number": (
        "read_table",
        {"table_name": "orders", "limit": "many"},
        "invalid_arguments",
        "limit must be a whole number, not a string",
        "",
    ),
    "a number that is too large": (
        "search_tables",
        {"search_term": "x", "limit": 100_000},
        "invalid_arguments",
        "above the most, 200",
        "",
    ),
    "an unknown profile": ("list_tables", {"profile": "frist"}, "unknown_profile", "'frist'", "first, second"),
    "several profiles": (
        "list_tables",
        {"profile": "first,second"},
        "invalid_arguments",
        "one profile per call",
        "first, second",
    ),
    "all profiles": ("list_tables", {"profile": "*"}, "invalid_arguments", "one profile per call", "first, second"),
    "a typing error in SQL": ("execute_query", {"query": "SELEC 1"}, "bad_query", "SELEC", ""),
    "an unknown table": ("read_table", {"table_name": "custmers"}, "not_found", "custmers", "public.customers"),
    "an unknown table in SQL": (
        "execute_query",
        {"query": "SELECT * FROM custmers"},
        "not_found",
        "custmers",
        "customers",
    ),
    "an unknown column in SQL": (
        "execute_query",
        {"query": "SELECT emial FROM customers"},
        "not_found",
        "emial",
        "email",
    ),
    "an unknown schema": ("list_tables", {"schema": "pubic"}, "not_found", "pubic", "public"),
    "a statement that writes": ("execute_query", {"query": "DELETE FROM orders"}, "unsafe_sql", "DELETE", "SELECT"),
    "a missing parameter": ("execute_query", {"query": "SELECT $2::int"}, "invalid_arguments", "$2", "params"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
async def test_a_mistake_is_answered_with_what_to_do(client: Client, mistake: str) -> None:
    tool, arguments, code, message, hint = MISTAKES[mistake]

    result = await client.call_tool(tool, arguments)

    assert result.is_error
    error = body(result)["error"]
    assert error["code"] == code, error
    assert message in error["message"]
    assert hint in error.get("hint", "")


async def test_a_mistake_in_a_statement_has_its_place(client: Client) -> None:
    result = await client.call_tool("execute_query", {"query": "SELECT id,\n  emial FROM customers"})

    error = body(result)["error"]
    assert error["position"] == "SELECT id,\n  emial".index("emial") + 1
    assert error["sqlstate"] == "42703"


async def test_a_wrong_password_is_not_told_and_not_retryable(tmp_path: Path, databases: Pair) -> None:
    config = write_profiles(tmp_path, databases)
    (tmp_path / "first.password").write_text("swordfish-of-old")
    async with over_stdio(config, "2026-07-28") as client:
        error = body(await client.call_tool("list_tables", {}))["error"]
        second = await client.call_tool("list_tables", {"profile": "second"})

    assert (error["code"], error["retryable"]) == ("auth_failed", False)
    assert databases.first.reader in error["message"]
    assert "swordfish" not in json.dumps(error)
    assert "swordfish" not in (tmp_path / "stdio.log").read_text()
    assert not second.is_error


async def test_the_log_tells_of_calls_that_failed_and_not_of_secrets(opened: Wire, databases: Pair) -> None:
    await opened.call("execute_query", query="SELECT 'a private matter' FROM nowhere")

    assert "tool=execute_query profile=first outcome=not_found" in opened.log
    assert "a private matter" not in opened.log
    assert databases.first.reader_password not in opened.log


# A wrapper that prints into stdout on every path there is: Python's, the descriptor's, a child's.
CHATTY = """
import os, subprocess, sys
from gateway import observe

quiet = observe.log_record

def chatty(record):
    print("a print in the process", flush=True)
    os.write(1, b"bytes to the descriptor\\n")
    subprocess.run([sys.executable, "-c", "print('a print of a child'); import sys; print(repr(sys.stdin.read()))"])
    quiet(record)

observe.log_record = chatty
from gateway.cli import main
main()
"""


async def test_what_is_printed_inside_does_not_fall_into_the_protocol(config: Path, tmp_path: Path) -> None:
    script = tmp_path / "chatty.py"
    script.write_text(CHATTY)
    argv = [command()[0], str(script), "serve", "--config", str(config)]

    async with wire(config, "2026-07-28", argv=argv) as opened:
        first = await opened.call("execute_query", query="SELECT 1 AS one")
        second = await opened.call("execute_query", query="SELECT 2 AS two")
        assert await opened.close() == 0

    assert (first["rows"], second["rows"]) == ([[1]], [[2]])
    for printed in ("a print in the process", "bytes to the descriptor", "a print of a child", "''"):
        assert printed in opened.log


GARBAGE = {
    "half a message": b'{"jsonrpc": "2.0", "id": 7, "met\n',
    "text": b"Content-Length: 42\n",
    "bytes": bytes(range(128, 256)) + b"\x00\xff\n",
    "a list": b"[]\n",
    "a batch": b'[{"jsonrpc":"2.0","id":7,"method":"tools/list"}]\n',
    "a message of version 1": b'{"id": 7, "method": "tools/list"}\n',
    "parameters that are a text": b'{"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": "x"}\n',
    "more than a line may have": b"[" * (17 * 2**20) + b"\n",
    "far more than a line may have": b'{"jsonrpc": ' * (5 * 2**20) + b"\n",
}


@pytest.mark.parametrize("garbage", GARBAGE)
async def test_a_line_that_is_no_message_is_answered_and_the_next_one_served(opened: Wire, garbage: str) -> None:
    opened.write(GARBAGE[garbage])
    refusal = await opened.answer(None)
    answer = await opened.call("execute_query", query="SELECT 1 AS one")

    assert refusal["error"]["code"] in (-32700, -32600)
    assert answer["rows"] == [[1]]


async def test_empty_lines_are_nothing(opened: Wire) -> None:
    opened.others.clear()
    opened.write(b"\n  \n\r\n")
    assert (await opened.call("execute_query", query="SELECT 1"))["rows"] == [[1]]
    assert not [message for message in opened.others if "error" in message]


async def test_a_line_of_megabytes_is_read_whole(opened: Wire) -> None:
    answer = await opened.call("execute_query", query="SELECT length($1::text)", params=["x" * 3_000_000])
    assert answer["rows"] == [[3_000_000]]


@pytest.mark.parametrize("wanted", [0, "", "a name", 2**53])
async def test_an_answer_has_the_id_of_its_request(opened: Wire, era: Era, wanted: Any) -> None:
    opened.send(call_message(era, "list_tables", {"limit": 0}, id=wanted))
    assert (await opened.answer(wanted))["id"] == wanted


async def test_the_oldest_version_is_spoken(down: Path) -> None:
    async with wire(down, "2026-07-28") as opened:
        opened.send(initialize("2024-11-05"))
        greeting = await opened.answer("greeting")
    assert greeting["result"]["protocolVersion"] == "2024-11-05"
    assert "dead" in greeting["result"]["instructions"]


async def test_the_end_of_stdin_ends_the_process_while_a_statement_runs(
    config: Path, databases: Pair, era: Era
) -> None:
    marked = f"{SLOW} -- stdin ends {era}"
    async with wire(config, era) as opened:
        opened.start_call("execute_query", query=marked)
        assert await until(lambda: running(databases.first, marked))
        started = time.monotonic()
        assert await opened.close() == 0
        assert time.monotonic() - started < 4
    assert await until(lambda: ended(databases.first, marked), within_s=3)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_process_and_its_statements(
    config: Path, databases: Pair, number: signal.Signals
) -> None:
    marked = f"{SLOW} -- {number.name}"
    async with wire(config, "2026-07-28") as opened:
        opened.start_call("execute_query", query=marked)
        assert await until(lambda: running(databases.first, marked))
        assert await opened.end(number) == 0
    assert await until(lambda: ended(databases.first, marked), within_s=3)
    assert "Traceback" not in opened.log


async def test_a_call_that_is_cancelled_ends_its_statement(opened: Wire, databases: Pair, era: Era) -> None:
    marked = f"{SLOW} -- cancelled {era}"
    call_id = opened.start_call("execute_query", query=marked)
    assert await until(lambda: running(databases.first, marked))
    opened.notify("notifications/cancelled", requestId=call_id, reason="enough")
    assert await until(lambda: ended(databases.first, marked), within_s=2)
    assert (await opened.call("execute_query", query="SELECT 1"))["rows"] == [[1]]


async def test_a_call_that_takes_long_tells_of_its_progress(opened: Wire, databases: Pair, era: Era) -> None:
    marked = f"{SLOW} -- progress {era}"
    call_id = opened.start_call("execute_query", query=marked, meta={"progressToken": "a token"})
    told: list[dict[str, Any]] = []
    while len(told) < 2:
        message = await opened.read()
        told += [message] if message.get("method") == "notifications/progress" else []
    opened.notify("notifications/cancelled", requestId=call_id)

    assert [message["params"]["progressToken"] for message in told] == ["a token"] * 2
    assert told[0]["params"]["progress"] < told[1]["params"]["progress"]
    assert told[0]["params"]["total"] == 30
    assert told[0]["params"]["message"].startswith("first: execute_query has waited 1 s for the statement's answer, ")
    assert await until(lambda: ended(databases.first, marked), within_s=2)


async def test_a_call_that_is_tried_again_tells_why_and_nothing_after_its_answer(down: Path, era: Era) -> None:
    async with wire(down, era) as opened:
        call_id = opened.start_call("list_tables", meta={"progressToken": 7})
        answer = await opened.answer(call_id)
        told = [message["params"] for message in opened.others if message.get("method") == "notifications/progress"]
        opened.others.clear()
        await opened.call("list_tables", limit=0)

    assert answer["result"]["structuredContent"]["error"]["code"] == "unavailable"
    assert told[0]["message"].startswith("dead: 127.0.0.1:1 refused the connection; trying again (1), ")
    assert told[1]["message"].startswith("dead: 127.0.0.1:1 refused the connection; trying again (2), ")
    assert {params["progressToken"] for params in told} == {7}
    steps = [params["progress"] for params in told]
    assert steps == sorted(set(steps))
    assert opened.others == []


async def test_quick_calls_overtake_a_slow_one(opened: Wire, databases: Pair, era: Era) -> None:
    marked = f"{SLOW} -- overtaken {era}"
    slow = opened.start_call("execute_query", query=marked)
    assert await until(lambda: running(databases.first, marked))
    quick = [opened.start_call("execute_query", query=f"SELECT {number}") for number in range(20)]
    answers: dict[int, list[list[Any]]] = {}
    while len(answers) < len(quick):
        message = await opened.read()
        answers[message["id"]] = message["result"]["structuredContent"]["rows"]
    opened.notify("notifications/cancelled", requestId=slow)

    assert answers == {call_id: [[number]] for number, call_id in enumerate(quick)}
    assert await until(lambda: ended(databases.first, marked), within_s=2)


def conversation(era: Era) -> bytes:
    """Return a whole conversation as lines."""
    lines: list[dict[str, Any]] = []
    if era == "2025-11-25":
        lines += [initialize(era), {"jsonrpc": "2.0", "method": "notifications/initialized"}]
    query = "SELECT count(*) AS rows FROM generate_series(1, 300000)"
    lines.append(call_message(era, "execute_query", {"query": query}, id="last"))
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


@pytest.mark.parametrize(("kinds", "era"), [("files", "2025-11-25"), ("files", "2026-07-28"), ("pipes", "2025-11-25")])
async def test_a_conversation_from_a_file_or_a_pipe_is_answered_to_its_end(
    config: Path, era: Era, tmp_path: Path, kinds: str
) -> None:
    (tmp_path / "in").write_bytes(conversation(era))
    serve = " ".join(command("serve", "--config", str(config)))
    shell = f"{serve} <in >out" if kinds == "files" else f"cat in | {serve} | cat >out"

    process = await run_program(["sh", "-c", shell], cwd=tmp_path)

    assert process.code == 0
    last = json.loads((tmp_path / "out").read_text().splitlines()[-1])
    assert last["id"] == "last"
    assert last["result"]["structuredContent"]["rows"] == [[300_000]]
    assert json.loads(last["result"]["content"][0]["text"]) == last["result"]["structuredContent"]


async def test_stdin_and_stdout_that_are_nothing_end_it_at_once(down: Path) -> None:
    process = await run_program(["sh", "-c", f"{' '.join(command('serve', '-c', str(down)))} </dev/null >/dev/null"])
    assert process.code == 0, process.err
    assert "Traceback" not in process.err


async def test_a_client_that_goes_away_altogether_is_no_accident(config: Path, databases: Pair) -> None:
    marked = f"{SLOW} -- gone"
    async with wire(config, "2026-07-28") as opened:
        opened.start_call("execute_query", query=marked, meta={"progressToken": 1})
        assert await until(lambda: running(databases.first, marked))
        transport: Any = opened.process._transport  # type: ignore[attr-defined] # nothing public closes stdout alone
        transport.get_pipe_transport(1).close()
        assert await opened.close() == 0
    assert "Traceback" not in opened.log
    assert await until(lambda: ended(databases.first, marked), within_s=3)
