"""The protocol without a wire: what a client is told of the tools, and how a failure reaches it."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn

import pytest
from mcp.client import Client
from mcp.shared.exceptions import MCPError

from gateway import __version__
from gateway.app import Gateway
from gateway.profiles import Endpoint, Limits, Profile
from gateway.server import build_server, instructions
from gateway.tools import TOOLS
from tests.support.clients import body
from tests.support.gateway import config_of

pytestmark = pytest.mark.anyio

# No socket is opened to it: every call here is refused before.
LOCAL = Profile(name="local", endpoints=(Endpoint(host="nowhere.invalid"),), database="shop", user="reader")
PROD = Profile(
    name="prod",
    endpoints=(Endpoint(host="nowhere.invalid"),),
    database="production",
    user="reader",
    password="literal:swordfish",
    description="orders since 2019",
    production=True,
    limits=Limits(rows=50),
)
LISTING_BYTES = 6 * 1024


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    async with Gateway(config_of(LOCAL, PROD), environ={}) as gateway:
        yield gateway


@pytest.fixture(params=["legacy", "auto"])
async def client(request: pytest.FixtureRequest, gateway: Gateway) -> AsyncIterator[Client]:
    async with Client(build_server(gateway, finished=False), mode=request.param) as client:
        yield client


async def test_a_model_is_told_of_the_profiles_and_of_the_rules(gateway: Gateway) -> None:
    text = instructions(gateway)

    assert "left out: local" in text
    assert "- local: shop\n" in text
    assert "- prod: production (orders since 2019; production)" in text
    assert "1000 rows" in text
    assert "untrusted" in text
    assert "swordfish" not in text
    assert "nowhere.invalid" not in text


async def test_the_server_says_who_it_is(client: Client, gateway: Gateway) -> None:
    assert client.server_info is not None
    assert (client.server_info.name, client.server_info.version) == ("pg-mcp-gateway", __version__)
    assert client.instructions == instructions(gateway)


async def test_the_tools_are_listed_in_their_order(client: Client) -> None:
    listed = (await client.list_tools()).tools
    assert [(tool.name, tool.title, tool.description) for tool in listed] == [
        (tool.name, tool.title, tool.description) for tool in TOOLS
    ]


async def test_the_list_of_tools_is_short_enough_to_be_read_in_each_conversation(client: Client) -> None:
    listed = (await client.list_tools()).tools
    dumped = [
        tool.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"output_schema"}) for tool in listed
    ]
    assert len(json.dumps(dumped, separators=(",", ":"))) <= LISTING_BYTES


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
async def test_each_tool_refuses_an_unknown_argument_with_those_it_takes(client: Client, tool: Any) -> None:
    result = await client.call_tool(tool.name, {"nonsense": 1})

    assert result.is_error
    error = body(result)["error"]
    assert (error["code"], error["retryable"]) == ("invalid_arguments", False)
    assert "nonsense" in error["message"]
    for argument in tool.arguments:
        assert argument.name in error["hint"]


# Arguments of execute_query that do not fit, and words of the answer.
UNFIT: dict[str, tuple[dict[str, Any], str]] = {
    "no text": ({"query": 7}, "query must be a string, not a number"),
    "an empty text": ({"query": "  "}, "query must not be empty"),
    "a null": ({"query": None}, "needs query"),
    "a list for a number": ({"query": "SELECT 1", "limit": [1]}, "limit must be a whole number, not an array"),
    "a truth for a number": ({"query": "SELECT 1", "limit": True}, "limit must be a whole number, not a boolean"),
    "half a row": ({"query": "SELECT 1", "limit": 1.5}, "limit must be a whole number"),
    "no row": ({"query": "SELECT 1", "limit": 0}, "below the least, 1"),
    "a text for a list": ({"query": "SELECT 1", "params": "x"}, "params must be an array, not a string"),
    "a number for a profile": ({"query": "SELECT 1", "profile": 3}, "profile must be a string"),
    "half a character": ({"query": "SELECT '\ud800'"}, "not valid Unicode"),
}


@pytest.mark.parametrize("case", UNFIT)
async def test_unfit_arguments_are_answered_with_what_to_change(gateway: Gateway, case: str) -> None:
    arguments, message = UNFIT[case]
    async with Client(build_server(gateway, finished=False), mode="2026-07-28") as client:
        error = body(await client.call_tool("execute_query", arguments))["error"]
    assert error["code"] == "invalid_arguments"
    assert message in error["message"]


async def test_an_unknown_tool_is_an_error_of_the_protocol_that_names_the_known_ones(client: Client) -> None:
    with pytest.raises(MCPError) as caught:
        await client.call_tool("x" * 1000, {})

    assert caught.value.error.code == -32602
    assert len(caught.value.error.message) < 100
    assert caught.value.error.data == {"tools": [tool.name for tool in TOOLS]}


async def test_a_refusal_names_code_profile_and_way_out(client: Client) -> None:
    error = body(await client.call_tool("execute_query", {"query": "TRUNCATE orders", "profile": "prod"}))["error"]
    assert (error["code"], error["profile"], error["retryable"]) == ("unsafe_sql", "prod", False)
    assert "TRUNCATE" in error["message"]
    assert error["hint"]


async def test_what_nobody_expected_is_answered_without_its_words(caplog: pytest.LogCaptureFixture) -> None:
    def broken(*_: Any, **__: Any) -> NoReturn:
        raise RuntimeError("host=secret.example")

    guard: Callable[..., Any] = broken
    async with Gateway(config_of(LOCAL), environ={}, guard=guard) as gateway:
        for mode in ("legacy", "auto"):
            async with Client(build_server(gateway, finished=False), mode=mode) as client:
                with caplog.at_level(logging.ERROR):
                    result = await client.call_tool("execute_query", {"query": "SELECT 1"})
                assert result.is_error
                assert body(result)["error"]["code"] == "internal"
                assert "secret.example" not in json.dumps(body(result))
    assert "secret.example" in caplog.text
