"""Who may speak to the HTTP endpoint, tried on the application itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest

from gateway.app import Gateway
from gateway.http import BODY_BYTES, build_http_app, is_loopback
from gateway.profiles import Endpoint, Profile
from gateway.server import build_server
from tests.support.clients import call_message, headers
from tests.support.gateway import config_of

pytestmark = pytest.mark.anyio

PROFILE = Profile(name="local", endpoints=(Endpoint(host="nowhere.invalid"),), database="shop", user="reader")
MESSAGE = call_message("2025-11-25", "execute_query", {"query": "DROP TABLE orders"})


@asynccontextmanager
async def client(base: str = "http://127.0.0.1:8765", **options: Any) -> AsyncIterator[httpx2.AsyncClient]:
    """Yield a client of the application as it would be built for an address."""
    async with Gateway(config_of(PROFILE), environ={}) as gateway:
        app = build_http_app(build_server(gateway, finished=True), **{"host": "127.0.0.1", **options})
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url=base) as http:
            yield http


async def status(http: httpx2.AsyncClient, **more: str) -> int:
    reply = await http.post("/mcp", json=MESSAGE, headers=headers("2025-11-25", MESSAGE) | more)
    return reply.status_code


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "localhost", "::1", "[::1]"])
async def test_this_machine_alone_reaches_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "localhost.example.org", "db", ""])
async def test_other_machines_may_reach_everything_else(host: str) -> None:
    assert not is_loopback(host)


async def test_an_answer_comes_finished() -> None:
    async with client() as http:
        reply = await http.post("/mcp", json=MESSAGE, headers=headers("2025-11-25", MESSAGE))
    assert reply.status_code == 200
    result = reply.json()["result"]
    assert result["isError"] is True
    assert result["structuredContent"]["error"]["code"] == "unsafe_sql"


# How it was started, the Host header that comes, and whether it is believed.
HOSTS = [
    ({"host": "127.0.0.1"}, "127.0.0.1:8765", 200),
    ({"host": "127.0.0.1"}, "localhost:8765", 200),
    ({"host": "::1"}, "[::1]:8765", 200),
    ({"host": "127.0.0.1"}, "rebound.example:8765", 421),
    ({"host": "127.0.0.1"}, "127.0.0.1.rebound.example", 421),
    ({"host": "127.0.0.1", "allowed_hosts": ["mcp.example.org"]}, "mcp.example.org", 200),
    ({"host": "192.168.1.2"}, "192.168.1.2:8765", 200),
    ({"host": "192.168.1.2"}, "rebound.example", 421),
    ({"host": "0.0.0.0"}, "rebound.example", 421),
    ({"host": "0.0.0.0", "allowed_hosts": ["mcp.example.org"]}, "mcp.example.org:8765", 200),
    ({"host": "0.0.0.0", "token": "t"}, "anything.example", 200),
    ({"host": "0.0.0.0", "token": "t", "allowed_hosts": ["mcp.example.org"]}, "anything.example", 421),
]


@pytest.mark.parametrize(("options", "host", "expected"), HOSTS)
async def test_a_host_is_believed_that_was_meant(options: dict[str, Any], host: str, expected: int) -> None:
    async with client(**options) as http:
        assert await status(http, host=host, authorization="Bearer t") == expected


async def test_a_page_of_another_origin_is_refused() -> None:
    async with client() as http:
        assert await status(http, origin="http://page.example") == 403
        assert await status(http, origin="null") == 403
        assert await status(http, origin="http://localhost:5173") == 200


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("Bearer s3cret", 200),
        ("bearer s3cret", 200),
        ("Bearer  s3cret ", 200),
        ("Bearer s3cre", 401),
        ("Bearer", 401),
        ("s3cret", 401),
        ("Basic s3cret", 401),
    ],
)
async def test_the_token_is_asked_for_and_compared(header: str, expected: int) -> None:
    async with client(token="s3cret") as http:
        assert await status(http, authorization=header) == expected


async def test_without_a_token_the_way_in_is_named() -> None:
    async with client(token="s3cret") as http:
        reply = await http.post("/mcp", json=MESSAGE)
        assert (await http.get("/healthz")).status_code == 200
    assert reply.status_code == 401
    assert reply.headers["www-authenticate"] == "Bearer"


async def test_a_body_at_the_limit_is_read_and_one_above_is_not() -> None:
    fields = headers("2025-11-25", MESSAGE)
    async with client() as http:
        for size, expected in ((BODY_BYTES, 400), (BODY_BYTES + 1, 413)):
            reply = await http.post("/mcp", content=b" " * size, headers=fields)
            assert reply.status_code == expected
