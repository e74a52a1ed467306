"""Trouble that a statement brings along: another server out of reach, and a session robbed of its prepared statements.

Neither is a failure to reach the profile's own database, so neither opens its breaker.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest

from gateway.app import Gateway
from gateway.errors import GatewayError, PermissionDenied, Unavailable
from gateway.observe import CallRecord, Record
from gateway.profiles import PoolSettings
from tests.support.gateway import call, gateway_over
from tests.support.postgres import Pair, Servers

pytestmark = pytest.mark.anyio

FUNCTIONS = """
CREATE FUNCTION breaks(code text) RETURNS int LANGUAGE plpgsql STABLE AS
  $$ BEGIN RAISE EXCEPTION 'could not establish connection' USING ERRCODE = code; END $$;
CREATE FUNCTION forgets() RETURNS int LANGUAGE plpgsql VOLATILE AS
  $$ BEGIN EXECUTE 'DEALLOCATE ALL'; RETURN 1; END $$;
"""
# Nobody listens on port 1.
FOREIGN = """
CREATE EXTENSION postgres_fdw;
CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '1', dbname 'other');
CREATE USER MAPPING FOR PUBLIC SERVER elsewhere OPTIONS (user 'somebody', password 'swordfish');
CREATE FOREIGN TABLE far_away (id int) SERVER elsewhere;
GRANT SELECT ON far_away TO gateway_reader;
"""
DIALS = """
CREATE EXTENSION dblink;
CREATE FUNCTION dials() RETURNS int LANGUAGE sql STABLE AS
  $$ SELECT n FROM public.dblink('host=127.0.0.1 port=1 password=swordfish', 'SELECT 1') AS t(n int) $$;
"""


@pytest.fixture(scope="module")
async def pair(servers: Servers) -> AsyncIterator[Pair]:
    async with servers.copy() as copies:
        async with copies.first.connection() as admin:
            await admin.execute(FUNCTIONS)
            for name, sql in (("postgres_fdw", FOREIGN), ("dblink", DIALS)):
                if await admin.fetchval("SELECT count(*) FROM pg_available_extensions WHERE name = $1", name):
                    await admin.execute(sql)
        yield copies


@pytest.fixture
def records() -> list[CallRecord]:
    return []


@pytest.fixture
async def gateway(pair: Pair, records: list[CallRecord]) -> AsyncIterator[Gateway]:
    def keep(record: Record) -> None:
        if isinstance(record, CallRecord):
            records.append(record)

    one = PoolSettings(min=0, max=1)
    async with gateway_over(pair, observers=(keep,), pool=one, allow_functions=("public.forgets",)) as running:
        yield running


CASES = {
    "a foreign table": ("postgres_fdw", "SELECT * FROM far_away", "08001"),
    "a function that dials": ("dblink", "SELECT dials()", "08001"),
    "a connection that it has not": (None, "SELECT breaks('08003')", "08003"),
    "a connection that broke": (None, "SELECT breaks('08006')", "08006"),
}


@pytest.mark.parametrize("case", CASES)
async def test_a_server_behind_the_database_that_is_out_of_reach_is_told_as_such(
    gateway: Gateway, pair: Pair, records: list[CallRecord], case: str
) -> None:
    extension, query, sqlstate = CASES[case]
    if extension is not None:
        async with pair.first.connection() as looking:
            if not await looking.fetchval("SELECT count(*) FROM pg_extension WHERE extname = $1", extension):
                pytest.skip(f"this PostgreSQL has no {extension}")
    await call(gateway, "execute_query", query="SELECT 1")
    started = time.monotonic()

    with pytest.raises(Unavailable) as caught:
        await call(gateway, "execute_query", query=query)

    assert (caught.value.sqlstate, caught.value.repeat, caught.value.profile) == (sqlstate, "never", "first")
    assert caught.value.message.startswith("the database could not reach another server")
    assert "swordfish" not in caught.value.message
    assert records[-1].retries == 0
    assert time.monotonic() - started < 5
    assert (await call(gateway, "execute_query", query="SELECT 1"))["rows"] == [[1]]


async def test_a_session_robbed_of_its_prepared_statements_is_left_behind(
    gateway: Gateway, records: list[CallRecord]
) -> None:
    asked = {"tool": "execute_query", "query": "SELECT 1 AS one"}
    for _ in range(3):
        await call(gateway, **asked)
        await call(gateway, "execute_query", query="SELECT forgets()")
        assert (await call(gateway, **asked))["rows"] == [[1]]
        assert records[-1].retries == 1
        # What came of the next try is as good as new.
        assert (await call(gateway, **asked))["rows"] == [[1]]
        assert records[-1].retries == 0


async def test_tools_of_our_own_statements_get_over_it_too(gateway: Gateway, records: list[CallRecord]) -> None:
    await call(gateway, "list_tables")
    await call(gateway, "execute_query", query="SELECT forgets()")

    assert (await call(gateway, "list_tables"))["row_count"] > 0
    assert records[-1].retries == 1


@pytest.mark.parametrize("code", ["26000", "40001", "57P02"])
async def test_a_statement_that_fails_each_time_closes_the_profile_for_nobody(gateway: Gateway, code: str) -> None:
    await call(gateway, "execute_query", query="SELECT 1")
    for _ in range(3):
        with pytest.raises(GatewayError):
            await call(gateway, "execute_query", query=f"SELECT breaks('{code}')")
        assert (await call(gateway, "execute_query", query="SELECT 1"))["rows"] == [[1]]


async def test_explaining_a_text_over_a_database_that_tells_nothing_is_an_error_of_ours(own_databases: Pair) -> None:
    async with own_databases.first.connection() as admin:
        await admin.execute("REVOKE SELECT ON pg_catalog.pg_proc FROM PUBLIC")
    async with gateway_over(own_databases) as gateway:
        with pytest.raises(PermissionDenied) as caught:
            await gateway.explain("SELECT 1", gateway.resolve("first"), offline=False)
        assert (caught.value.profile, caught.value.sqlstate) == ("first", "42501")
        assert (await gateway.explain("SELECT 1", gateway.resolve("second"), offline=False))["verdict"] == "allowed"
