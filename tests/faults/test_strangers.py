"""Whoever listens at a profile's address instead of PostgreSQL: the call ends in time, and the process lives on."""

from __future__ import annotations

import asyncio
import ssl
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trustme

from gateway.app import Gateway
from gateway.errors import GatewayError
from gateway.profiles import Endpoint, Limits, PoolSettings, Profile, RetrySettings, SslMode, Tls
from tests.support.gateway import call, config_of, profile_of
from tests.support.postgres import Pair

pytestmark = pytest.mark.anyio

CALL_S = 2.0
Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def message(kind: bytes, length: int, body: bytes = b"") -> bytes:
    return kind + struct.pack("!i", length) + body


async def short_message(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(8)
    writer.write(message(b"R", 3) + b"\0" * 64)
    await reader.read()


async def negative_length(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(8)
    writer.write(message(b"S", -1))
    await reader.read()


async def short_message_after_a_login(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(8)
    writer.write(message(b"R", 8, b"\0\0\0\0"))
    await writer.drain()
    await asyncio.sleep(0)
    for byte in message(b"S", 0):
        writer.write(bytes((byte,)))
        await writer.drain()
    await reader.read()


async def web_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(8)
    writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    writer.close()


async def silence(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def endless_noise(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"\xff" * 65536)
        await writer.drain()


async def a_message_without_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(8)
    writer.write(message(b"N", 2**31 - 1) + b"\0" * 1024)
    await reader.read()


STRANGERS = (
    short_message,
    negative_length,
    short_message_after_a_login,
    web_server,
    silence,
    endless_noise,
    a_message_without_end,
)


@asynccontextmanager
async def listening(answer: Answer, *, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Listen with `answer` for each connection; with a context, behind PostgreSQL's own way to TLS."""

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if context is not None:
                await reader.readexactly(8)
                writer.write(b"S")
                await writer.start_tls(context)
            await answer(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(meet, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def stranger(port: int, mode: SslMode) -> Profile:
    return Profile(
        name="stranger",
        endpoints=(Endpoint(host="127.0.0.1", port=port),),
        database="d",
        user="u",
        password="literal:p",
        tls=Tls(mode=mode),
        pool=PoolSettings(min=0, max=2),
        limits=Limits(call_s=CALL_S, statement_s=1.0, acquire_s=1.0),
        retry=RetrySettings(first_wait_s=0.05, max_wait_s=0.2),
    )


async def refused(gateway: Gateway) -> tuple[GatewayError, float]:
    """Ask the stranger and, meanwhile, a real database; return the stranger's error and how long it took."""
    started = time.monotonic()
    asked = asyncio.create_task(call(gateway, "list_tables", profile="stranger"))
    while not asked.done():
        await call(gateway, "execute_query", query="SELECT 1", profile="first")
    took = time.monotonic() - started
    with pytest.raises(GatewayError) as caught:
        await asked
    return caught.value, took


@pytest.mark.parametrize("mode", ["disable", "prefer", "require"])
@pytest.mark.parametrize("answer", STRANGERS, ids=lambda answer: answer.__name__)
async def test_a_listener_that_is_not_postgresql_ends_the_call_in_time_and_nothing_else(
    databases: Pair, answer: Answer, mode: SslMode
) -> None:
    async with listening(answer) as port:
        configuration = config_of(stranger(port, mode), profile_of(databases.first, "first"))
        async with Gateway(configuration, environ={}) as gateway:
            error, took = await refused(gateway)

    assert error.code in ("unavailable", "tls_failed")
    assert error.profile == "stranger"
    assert took < CALL_S + 2.0


@pytest.mark.parametrize("answer", STRANGERS, ids=lambda answer: answer.__name__)
async def test_a_stranger_behind_tls_is_hung_up_on_as_well(databases: Pair, answer: Answer) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    async with listening(answer, context=context) as port:
        configuration = config_of(stranger(port, "require"), profile_of(databases.first, "first"))
        async with Gateway(configuration, environ={}) as gateway:
            error, took = await refused(gateway)

    assert error.code in ("unavailable", "tls_failed")
    assert took < CALL_S + 2.0
