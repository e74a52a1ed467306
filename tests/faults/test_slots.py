"""A server without a free connection slot (53300): calls wait for one, and say so when none comes free in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
import pytest

from gateway.app import Gateway
from gateway.embedded import EmbeddedServer
from gateway.errors import Unavailable
from gateway.observe import DialRecord, Record
from gateway.profiles import Endpoint, Limits, PoolSettings, Profile, Tls
from tests.support.gateway import call, config_of
from tests.support.polling import until
from tests.support.postgres import chosen_binaries, quick_folder

pytestmark = pytest.mark.anyio

CALL_S = 3.0
GRACE_S = 2.0
RECOVERED_S = 3.0
SLOTS = 8
RESERVED = 3
POOL_MAX = 6
PASSWORD = "of the slots' role"


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[EmbeddedServer]:
    """Run a server with few slots."""
    settings = {"max_connections": str(SLOTS), "superuser_reserved_connections": str(RESERVED)}
    async with EmbeddedServer.create(binaries=chosen_binaries(), settings=settings, inside=quick_folder()) as own:
        for statement in ("CREATE ROLE outsider", "CREATE ROLE unlimited", "CREATE ROLE limited CONNECTION LIMIT 2"):
            await _as_superuser(own, f"{statement} LOGIN PASSWORD '{PASSWORD.replace(chr(39), chr(39) * 2)}'")
        yield own


async def _as_superuser(server: EmbeddedServer, sql: str) -> Any:
    connection = await asyncpg.connect(server.dsn(), ssl=False, timeout=10, command_timeout=30)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close(timeout=5)


def profile_for(server: EmbeddedServer, role: str, *, call_s: float = CALL_S) -> Profile:
    return Profile(
        name="first",
        endpoints=(Endpoint(host=server.host, port=server.port),),
        database="postgres",
        user=role,
        password=f"literal:{PASSWORD}",
        tls=Tls(mode="disable"),
        pool=PoolSettings(min=0, max=POOL_MAX),
        limits=Limits(call_s=call_s, statement_s=call_s, acquire_s=call_s),
    )


@asynccontextmanager
async def taken(server: EmbeddedServer, role: str, number: int) -> AsyncIterator[None]:
    """Hold so many slots as `role`."""

    async def take() -> bool:
        try:
            connection = await asyncpg.connect(server.dsn(user=role, password=PASSWORD), ssl=False, timeout=10)
        except asyncpg.TooManyConnectionsError:
            # A session that was closed just now may not be gone yet.
            return False
        stack.push_async_callback(connection.close, timeout=5)
        return True

    async with AsyncExitStack() as stack:
        for _ in range(number):
            assert await until(take)
        yield


CASES = pytest.mark.parametrize(
    ("role", "holder", "number", "told"),
    [
        pytest.param("limited", "limited", 2, "too many connections for role", id="role_limit"),
        pytest.param("unlimited", "outsider", SLOTS - RESERVED, "remaining connection slots are reserved", id="server"),
    ],
)


@CASES
async def test_calls_without_a_slot_end_in_time_and_say_so(
    server: EmbeddedServer, role: str, holder: str, number: int, told: str
) -> None:
    async with (
        taken(server, holder, number),
        Gateway(config_of(profile_for(server, role)), environ={}) as gateway,
    ):
        started = time.monotonic()
        answers = await asyncio.gather(
            *(call(gateway, "execute_query", query="SELECT 1") for _ in range(4)), return_exceptions=True
        )
        took_s = time.monotonic() - started

        assert [type(answer) for answer in answers] == [Unavailable] * 4
        assert any(told in str(answer) for answer in answers), answers
        assert {getattr(answer, "sqlstate", None) for answer in answers} <= {"53300", None}
        assert took_s < CALL_S + GRACE_S
        assert gateway.pool_stats()["first"].size == 0


@CASES
async def test_calls_without_a_slot_are_answered_when_one_comes_free(
    server: EmbeddedServer, role: str, holder: str, number: int, told: str
) -> None:
    del told
    records: list[Record] = []
    configuration = config_of(profile_for(server, role, call_s=20.0))
    async with Gateway(configuration, environ={}, observers=[records.append]) as gateway:
        async with taken(server, holder, number):
            waiting = [asyncio.create_task(call(gateway, "execute_query", query="SELECT 1")) for _ in range(10)]
            assert await until(lambda: len(records) >= 2 * POOL_MAX)
            assert {(type(record), record.outcome) for record in records} == {(DialRecord, "unavailable")}
        started = time.monotonic()
        answers = await asyncio.gather(*waiting)
        took_s = time.monotonic() - started

        assert [answer["rows"] for answer in answers] == [[[1]]] * 10
        assert took_s < RECOVERED_S
        assert gateway.pool_stats()["first"].size <= (2 if role == "limited" else SLOTS - RESERVED)


async def test_a_pool_larger_than_the_roles_limit_works_with_what_it_gets(server: EmbeddedServer) -> None:
    async with Gateway(config_of(profile_for(server, "limited", call_s=20.0)), environ={}) as gateway:
        query = "SELECT count(*) FROM generate_series(1, 300000)"
        answers = await asyncio.gather(*(call(gateway, "execute_query", query=query) for _ in range(20)))

        assert [answer["rows"] for answer in answers] == [[[300_000]]] * 20
        assert gateway.pool_stats()["first"].size <= 2
