"""A connection whose server process was ended while nobody used it is no fault of the next caller's."""

from __future__ import annotations

import pytest

from gateway.errors import GatewayError
from tests.support.gateway import call, gateway_over
from tests.support.postgres import Pair

pytestmark = pytest.mark.anyio

_END_OTHERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"""
TRIES = 20


async def test_an_idle_connection_that_was_ended_is_never_an_internal_error(own_databases: Pair) -> None:
    codes = []
    async with own_databases.first.connection() as admin, gateway_over(own_databases) as gateway:
        await call(gateway, "execute_query", query="SELECT 1")
        for _ in range(TRIES):
            # At once: the server's word of it may be read by now and the end of the connection not yet.
            await admin.fetch(_END_OTHERS)
            try:
                await call(gateway, "execute_query", query="SELECT 1")
            except GatewayError as error:
                codes.append(error.code)
    assert set(codes) <= {"unavailable"}
