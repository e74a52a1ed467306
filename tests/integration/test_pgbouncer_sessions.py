"""Sessions that a PgBouncer shares out: what others left in them does not reach us, and nothing of ours stays in them.

The stranger is another program that logs in as the gateway does, and so gets the same two server connections.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gateway.app import Gateway
from gateway.errors import GatewayError, UnsafeSql
from gateway.profiles import Limits
from tests.corpus.attacks import ATTACKS
from tests.support.corpus_server import CorpusServer
from tests.support.effects import differences
from tests.support.gateway import call, config_of
from tests.support.pgbouncer import PgBouncer, gateway_behind, pooled, sessions, together
from tests.support.polling import until
from tests.support.postgres import Pair

pytestmark = pytest.mark.anyio

# What a stranger leaves in its session by plain SET, and would change our answers by.
LEFTOVERS = (
    "SET default_transaction_read_only = off",
    "SET default_transaction_isolation = 'serializable'",
    "SET default_transaction_deferrable = on",
    "SET search_path = 'billing'",
    "SET DateStyle = 'German'",
    "SET IntervalStyle = 'sql_standard'",
    "SET TimeZone = 'Asia/Tokyo'",
    "SET bytea_output = 'escape'",
    "SET extra_float_digits = -15",
    "SET row_security = off",
    "SET enable_seqscan = off",
    "SET statement_timeout = '7min'",
    "SET lock_timeout = '6min'",
    "SET jit = on",
    "SET app.tenant = 'someone'",
    "CREATE TEMP TABLE customers AS SELECT 4711 AS id",
    "SET ROLE stranger",
)
VALUES = (
    "SELECT '2024-02-03'::date AS d, interval '1 day 02:03' AS i, timestamptz '2024-02-03 04:05+00' AS t, "
    "'\\x00ff'::bytea AS b, 0.1::float8 + 0.2 AS f, current_user AS u, count(*) AS n, sum(id) AS ids FROM customers"
)
TENANT = "SELECT coalesce(name, '') FROM tenant"
# Kinds of the corpus that aim at what outlives a transaction.
KINDS = ("session", "prepared", "lock", "notify", "stacked", "hidden")


@pytest.fixture
async def pooler(own_databases: Pair) -> AsyncIterator[PgBouncer]:
    async with PgBouncer.before(own_databases.first) as running:
        yield running


@pytest.fixture
async def stranger(own_databases: Pair) -> AsyncIterator[None]:
    """Let the reader make temporary tables and take the role of a stranger, and see which tenant it is taken for."""
    database = own_databases.first
    async with database.connection() as admin:
        await admin.execute(f"GRANT TEMPORARY ON DATABASE {database.name} TO {database.reader}")
        await admin.execute(f"CREATE ROLE stranger; GRANT stranger TO {database.reader}")
        await admin.execute("CREATE VIEW tenant AS SELECT current_setting('app.tenant', true) AS name")
        await admin.execute(f"GRANT SELECT ON tenant TO {database.reader}")
        yield
        await admin.execute("DROP OWNED BY stranger; DROP ROLE stranger")


@pytest.mark.usefixtures("stranger")
async def test_what_a_stranger_left_behind_does_not_reach_our_answers(pooler: PgBouncer, own_databases: Pair) -> None:
    async with gateway_behind(pooler, own_databases) as gateway:
        expected = await call(gateway, "execute_query", query=VALUES)
        tables = await call(gateway, "list_tables")

        await sessions(pooler, own_databases.first, *LEFTOVERS)
        answers = await together(gateway, 10, "execute_query", query=VALUES)
        lists = await together(gateway, 4, "list_tables")
        tenants = await together(gateway, 4, "execute_query", query=TENANT)
        described = await call(gateway, "describe_table", table_name="customers")

    assert answers == [expected] * 10
    assert lists == [tables] * 4
    assert [answer["rows"] for answer in tenants] == [[[""]]] * 4
    assert len(described["columns"]) > 1


@pytest.mark.usefixtures("stranger")
async def test_a_gateway_that_starts_among_what_a_stranger_left_behind_is_not_misled(
    pooler: PgBouncer, own_databases: Pair
) -> None:
    async with gateway_behind(pooler, own_databases) as gateway:
        expected = await call(gateway, "execute_query", query=VALUES)

    # A path that looks as if somebody had put a schema before the built-in functions.
    orders = (*LEFTOVERS, "RESET ROLE", "SET search_path = billing, pg_catalog")
    await sessions(pooler, own_databases.first, *orders)
    async with gateway_behind(pooler, own_databases) as gateway:
        assert await call(gateway, "execute_query", query=VALUES) == expected


async def test_what_a_stranger_left_behind_is_still_there_for_it(pooler: PgBouncer, own_databases: Pair) -> None:
    kept = "SET search_path = 'billing'", "SET statement_timeout = '7min'", "SET app.tenant = 'someone'"
    before = await sessions(pooler, own_databases.first, *kept)
    async with gateway_behind(pooler, own_databases) as gateway:
        await together(gateway, 10, "execute_query", query=VALUES)

    assert await sessions(pooler, own_databases.first) == before


async def test_a_stranger_finds_nothing_of_ours(pooler: PgBouncer, own_databases: Pair) -> None:
    before = await sessions(pooler, own_databases.first)
    async with gateway_behind(pooler, own_databases) as gateway:
        await together(gateway, 4, "list_tables")
        await together(gateway, 4, "read_table", table_name="orders", limit=7)
        await together(gateway, 4, "execute_query", query="SELECT $1::int", params=[1])
        await together(gateway, 4, "execute_query", query="SHOW search_path")
        with pytest.raises(GatewayError):
            await call(gateway, "execute_query", query="SELECT no_such_column FROM customers")
        between = await sessions(pooler, own_databases.first)
    after = await sessions(pooler, own_databases.first)

    assert between == before
    assert after == before


async def test_a_write_that_the_guard_does_not_see_is_refused_by_the_transaction(
    pooler: PgBouncer, own_databases: Pair
) -> None:
    async with own_databases.first.connection() as admin:
        await admin.execute(
            """CREATE TABLE written (n int); GRANT ALL ON written TO PUBLIC;
            CREATE FUNCTION write() RETURNS int VOLATILE LANGUAGE sql AS 'INSERT INTO written VALUES (1) RETURNING n';
            CREATE VIEW writing AS SELECT write() AS n; GRANT SELECT ON writing TO PUBLIC"""
        )
    await sessions(pooler, own_databases.first, "SET default_transaction_read_only = off")
    async with gateway_behind(pooler, own_databases) as gateway:
        for _ in range(4):
            with pytest.raises(UnsafeSql):
                await call(gateway, "execute_query", query="SELECT * FROM writing")

    async with own_databases.first.connection() as admin:
        assert await admin.fetchval("SELECT count(*) FROM written") == 0


@pytest.fixture(scope="module")
async def corpus(anyio_backend: str) -> AsyncIterator[CorpusServer]:  # noqa: ARG001 - the loop of the whole session
    async with CorpusServer.run(dial_port=1) as server:
        yield server


@pytest.mark.parametrize("kind", KINDS)
async def test_attacks_on_the_session_leave_nothing_to_others(kind: str, corpus: CorpusServer) -> None:
    attacks = [attack for attack in ATTACKS if attack.kind == kind and corpus.extensions.issuperset(attack.needs)]
    struck: dict[str, str] = {}
    async with corpus.database() as database, PgBouncer.before(database) as pooler:
        profile = pooled(pooler, database, limits=Limits(statement_s=2.0, call_s=3.0))
        before = await sessions(pooler, database)
        async with Gateway(config_of(profile), environ={}) as gateway:
            for attack in attacks:
                try:
                    await call(gateway, "execute_query", query=attack.sql)
                except GatewayError as error:
                    struck[attack.id] = error.code
                else:
                    struck[attack.id] = "ok"
            await call(gateway, "execute_query", query="SELECT 1")
            # Rollback and release come after the answer.
            assert await until(lambda: gateway.pool_stats()["first"].busy == 0)
            after = await sessions(pooler, database)

    assert len(struck) == len(attacks) > 0
    assert "internal" not in struck.values()
    assert before.keys() == after.keys()
    assert [change for pid, session in before.items() for change in differences(session, after[pid])] == []
