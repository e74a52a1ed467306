"""`pooler = "pgbouncer"` against a real PgBouncer in transaction mode: tools, limits and deadlines hold.

Another program, called the stranger here, logs in as the gateway does and shares its two server connections.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import trustme

from gateway.app import Gateway
from gateway.errors import CallTimeout
from gateway.observe import DialRecord, Record
from gateway.profiles import Endpoint, Limits, PoolSettings, Tls
from tests.bench.relay import relay_to
from tests.support.gateway import call, config_of, profile_of
from tests.support.pgbouncer import SERVER_CONNECTIONS, PgBouncer, gateway_behind, sessions, together
from tests.support.polling import until
from tests.support.postgres import Database, Pair, certificate

pytestmark = pytest.mark.anyio

CALLS = 200
# Runs for minutes, and the guard has nothing against it.
LONG = "SELECT count(*) FROM generate_series(1, 100000) AS a, generate_series(1, 100000) AS b"
SETTINGS = (
    *("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "transaction_read_only"),
    *("default_transaction_read_only", "transaction_isolation", "DateStyle", "IntervalStyle", "TimeZone"),
    *("bytea_output", "extra_float_digits", "jit", "standard_conforming_strings", "client_encoding", "search_path"),
    *("row_security", "enable_seqscan", "transaction_deferrable"),
)
OURS = f"SELECT name, setting FROM pg_settings WHERE name = ANY('{{{','.join(SETTINGS)}}}') ORDER BY name"
TOOLS: Sequence[tuple[str, dict[str, Any]]] = (
    ("list_tables", {}),
    ("describe_table", {"table_name": "customers"}),
    ("read_table", {"table_name": "orders", "limit": 7}),
    ("execute_query", {"query": "SELECT * FROM customers WHERE id < $1 ORDER BY id", "params": [5]}),
    ("execute_query", {"query": "EXPLAIN SELECT * FROM customers"}),
    ("execute_query", {"query": "SHOW search_path"}),
    ("get_table_stats", {"table_name": "orders"}),
    ("search_tables", {"search_term": "order"}),
)


def steady(answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer without the counts of scans, to which the looks themselves add."""
    return {key: value for key, value in answer.items() if key not in ("scans", "indexes")}


async def backends(database: Database, *, running: str | None = None) -> int:
    """Count the server connections of the gateway's role, or those that run a statement with this text."""
    async with database.connection() as admin:
        count = await admin.fetchval(
            """SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = $1
               AND ($2::text IS NULL OR state = 'active' AND query LIKE '%' || $2 || '%')""",
            database.reader,
            running,
        )
    return int(count)


@pytest.fixture
async def pooler(own_databases: Pair) -> AsyncIterator[PgBouncer]:
    async with PgBouncer.before(own_databases.first) as running:
        yield running


@pytest.mark.parametrize(("tool", "arguments"), TOOLS, ids=[f"{tool}-{n}" for n, (tool, _) in enumerate(TOOLS)])
async def test_a_tool_answers_as_it_does_without_a_pooler(
    tool: str, arguments: dict[str, Any], pooler: PgBouncer, own_databases: Pair
) -> None:
    async with Gateway(config_of(profile_of(own_databases.first, "first")), environ={}) as straight:
        expected = await call(straight, tool, **arguments)

    async with gateway_behind(pooler, own_databases) as gateway:
        first, *more = [await call(gateway, tool, **arguments) for _ in range(3)]
        neighbour = await call(gateway, "execute_query", query="SELECT current_database()", profile="second")

    if arguments.get("query") == "SHOW search_path":
        expected["rows"] = [[expected["rows"][0][0] + ", pg_temp"]]  # so that a stranger's temporary table hides none
    assert [steady(answer) for answer in (first, *more)] == [steady(expected)] * 3
    assert neighbour["rows"] == [[own_databases.second.name]]


async def test_two_gateways_and_a_stranger_share_two_server_connections_without_an_error(
    pooler: PgBouncer, own_databases: Pair
) -> None:
    limits = Limits(acquire_s=25)
    busy = True

    async def be_a_stranger() -> int:
        done = 0
        async with pooler.client(own_databases.first) as client:
            while busy:
                async with client.transaction():
                    assert await client.fetchval("SELECT count(*) FROM products WHERE id < $1", 3) == 2
                done += 1
        return done

    async with (
        gateway_behind(pooler, own_databases, limits=limits) as one,
        gateway_behind(pooler, own_databases, limits=limits) as other,
    ):
        stranger = asyncio.create_task(be_a_stranger())
        work = []
        for number in range(CALLS):
            tool, arguments = TOOLS[number % len(TOOLS)]
            work.append(call((one, other)[number % 2], tool, **arguments))
        answers = await asyncio.gather(*work)
        busy = False
        done = await stranger

        for start in range(len(TOOLS)):
            first, *others = [steady(answer) for answer in answers[start :: len(TOOLS)]]
            assert [other for other in others if other != first] == []
        assert done > 0
        assert await backends(own_databases.first) == SERVER_CONNECTIONS


@pytest.mark.parametrize(
    ("tool", "arguments", "most"),
    [
        ("execute_query", {"query": "SELECT id, email FROM customers WHERE id < 7"}, 3),
        ("list_tables", {}, 3),
        ("describe_table", {"table_name": "customers"}, 3),
        ("read_table", {"table_name": "orders", "limit": 5}, 6),
    ],
)
async def test_a_warm_call_waits_for_the_database_so_often(
    tool: str, arguments: dict[str, Any], most: int, pooler: PgBouncer, own_databases: Pair
) -> None:
    async with relay_to(pooler.port) as relay:
        via = Endpoint(host=pooler.host, port=relay.port)
        async with gateway_behind(pooler, own_databases, endpoints=(via,)) as gateway:
            await call(gateway, tool, **arguments)
            await relay.quiet()
            before = len(relay.turns)

            await call(gateway, tool, **arguments)

            await relay.quiet()
            *turns, after_the_answer = relay.turns[before:]

    assert len(turns) == most
    assert b"ROLLBACK; SELECT pg_catalog.pg_advisory_unlock_all()" in after_the_answer.head


async def test_limits_and_read_only_are_in_force_on_every_call(pooler: PgBouncer, own_databases: Pair) -> None:
    limits = Limits(statement_s=7.0, call_s=11.0, acquire_s=10.0)
    async with gateway_behind(pooler, own_databases, limits=limits) as gateway:
        await sessions(
            *(pooler, own_databases.first, "SET search_path = 'billing'", "SET statement_timeout = 0"),
            *("SET default_transaction_isolation = 'serializable'", "SET default_transaction_deferrable = on"),
        )
        answers = await together(gateway, 20, "execute_query", query=OURS)

    for answer in answers:
        found = dict(answer["rows"])
        assert 5_000 < int(found.pop("statement_timeout")) <= 7_000
        assert 4_500 < int(found.pop("lock_timeout")) <= 6_300
        assert found == {
            "idle_in_transaction_session_timeout": "21000",
            "transaction_read_only": "on",
            "default_transaction_read_only": "on",
            "transaction_isolation": "read committed",
            "transaction_deferrable": "off",
            "DateStyle": "ISO, YMD",
            "IntervalStyle": "postgres",
            "TimeZone": "UTC",
            "bytea_output": "hex",
            "extra_float_digits": "1",
            "jit": "off",
            "standard_conforming_strings": "on",
            "client_encoding": "UTF8",
            "search_path": '"$user", public, pg_temp',
            "row_security": "on",
            "enable_seqscan": "on",
        }


async def test_our_own_catalogue_statements_are_read_only_and_bounded_too(
    pooler: PgBouncer, own_databases: Pair
) -> None:
    async with gateway_behind(pooler, own_databases) as gateway:
        for profile in ("first", "second"):
            _, found = await gateway.read(
                "settings",
                profile,
                lambda reading: reading.catalogue(
                    "SELECT json_build_array(current_setting('transaction_read_only'), "
                    "current_setting('statement_timeout') <> '0')::text"
                ),
            )
            assert found == [{"first": "on", "second": "on"}[profile], True]


async def test_a_search_path_of_the_profile_is_in_force_on_every_call(pooler: PgBouncer, own_databases: Pair) -> None:
    async with gateway_behind(pooler, own_databases, search_path=("billing", "public")) as gateway:
        await sessions(pooler, own_databases.first, "SET search_path = 'public'")
        answers = await together(gateway, 10, "execute_query", query="SELECT current_schemas(false)::text")

    assert {answer["rows"][0][0] for answer in answers} == {"{billing,public}"}


async def test_a_statement_beyond_its_time_is_ended_on_the_server(pooler: PgBouncer, own_databases: Pair) -> None:
    limits = Limits(statement_s=1.0, call_s=3.0)
    async with gateway_behind(pooler, own_databases, limits=limits) as gateway:
        started = time.monotonic()
        with pytest.raises(CallTimeout):
            await call(gateway, "execute_query", query=LONG)

        assert time.monotonic() - started < 3.0 + 2.0
        assert await until(lambda: _nobody_runs(own_databases.first), within_s=1.5)
        assert (await call(gateway, "execute_query", query="SELECT 1"))["rows"] == [[1]]


async def test_a_caller_that_leaves_ends_its_statement_on_the_server(pooler: PgBouncer, own_databases: Pair) -> None:
    async with gateway_behind(pooler, own_databases) as gateway:
        task = asyncio.create_task(call(gateway, "execute_query", query=LONG))
        assert await until(lambda: _somebody_runs(own_databases.first))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert await until(lambda: _nobody_runs(own_databases.first), within_s=1.5)
        assert (await call(gateway, "execute_query", query="SELECT 1"))["rows"] == [[1]]


async def _nobody_runs(database: Database) -> bool:
    return await backends(database, running="generate_series(1, 100000)") == 0


async def _somebody_runs(database: Database) -> bool:
    return not await _nobody_runs(database)


async def test_tls_to_the_pooler_works_and_is_checked(own_databases: Pair, tmp_path: Path) -> None:
    authority, root = trustme.CA(), tmp_path / "root.pem"
    authority.cert_pem.write_to_path(root)
    tls = certificate(authority, tmp_path / "tls")
    async with (
        PgBouncer.before(own_databases.first, tls=tls) as encrypted,
        gateway_behind(encrypted, own_databases, tls=Tls(mode="verify-full", root_cert=str(root))) as gateway,
    ):
        task = asyncio.create_task(call(gateway, "execute_query", query=LONG))
        assert await until(lambda: _somebody_runs(own_databases.first))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert await until(lambda: _nobody_runs(own_databases.first), within_s=1.5)
        assert (await call(gateway, "execute_query", query="SELECT 1"))["rows"] == [[1]]


async def test_a_backend_that_ignores_the_cancel_is_left_alone_and_the_next_call_works(
    pooler: PgBouncer, own_databases: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    async with own_databases.first.connection() as admin:
        await admin.execute("""CREATE FUNCTION stubborn() RETURNS int STABLE LANGUAGE plpgsql AS $$ BEGIN FOR i IN 1..8
          LOOP BEGIN PERFORM pg_sleep(1); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; RETURN 1; END $$""")
    seen: list[Record] = []
    limits = Limits(statement_s=1.0, call_s=2.0)
    with caplog.at_level(logging.WARNING, logger="gateway"):
        async with gateway_behind(
            pooler, own_databases, observers=[seen.append], limits=limits, pool=PoolSettings(min=0, max=1)
        ) as gateway:
            await call(gateway, "execute_query", query="SELECT 1")
            started = time.monotonic()
            with pytest.raises(CallTimeout):
                await call(gateway, "execute_query", query="SELECT stubborn()")
            assert time.monotonic() - started < 2.0 + 2.0

            # The one place in the pool is free again while the backend is still at work.
            assert await until(lambda: gateway.pool_stats()["first"].busy == 0, within_s=4)
            answer = await call(gateway, "execute_query", query="SELECT 2")
            still_at_work = await backends(own_databases.first, running="stubborn")

    assert answer["rows"] == [[2]]
    assert still_at_work == 1
    assert [record.outcome for record in seen if isinstance(record, DialRecord)] == ["ok", "ok"]
    assert "backend" not in caplog.text
