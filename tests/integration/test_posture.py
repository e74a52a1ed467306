"""`posture = "enforce"` closes a profile whose role may do more than read; "warn" opens it all the same."""

from __future__ import annotations

import pytest

from gateway.app import Gateway
from gateway.deadline import Deadline
from gateway.errors import Forbidden
from gateway.judging import Judging
from gateway.observe import log_record
from gateway.pools import Pools
from gateway.posture import posture_of
from gateway.sql_guard import judge
from tests.support.gateway import call, config_of, gateway_over, profile_of
from tests.support.polling import until
from tests.support.postgres import Pair

pytestmark = pytest.mark.anyio

TOOLS = {
    "list_tables": {},
    "describe_table": {"table_name": "orders"},
    "read_table": {"table_name": "orders"},
    "execute_query": {"query": "SELECT 1 AS one"},
    "get_table_stats": {"table_name": "orders"},
    "search_tables": {"search_term": "order"},
}
# What makes a role more than a reader, and a word of how that is said.
GRANTS = {
    "superuser": ("ALTER ROLE w SUPERUSER", "superuser"),
    "owner": ("CREATE TABLE public.own (id int); ALTER TABLE public.own OWNER TO w", "owns"),
    "writer": ("GRANT INSERT ON public.orders TO w", "may write"),
    "writer of one column": ("GRANT UPDATE (status) ON public.orders TO w", "may write"),
    "creator": ("GRANT CREATE ON SCHEMA public TO w", "may create"),
    "creator of roles": ("ALTER ROLE w CREATEROLE", "create roles"),
    "member": ("GRANT pg_read_all_data TO w", "pg_read_all_data"),
    "member of a writer": ("GRANT pg_signal_backend TO w", "pg_signal_backend"),
    "past row security": ("ALTER ROLE w BYPASSRLS", "row security"),
    "replication": ("ALTER ROLE w REPLICATION", "replicate"),
}


@pytest.mark.parametrize("tool", TOOLS)
async def test_enforce_refuses_a_superuser_in_every_tool(tool: str, databases: Pair) -> None:
    async with gateway_over(databases, as_superuser=True, posture="enforce") as gateway:
        with pytest.raises(Forbidden) as caught:
            await call(gateway, tool, **TOOLS[tool])

    assert caught.value.profile == "first"
    assert "superuser" in caught.value.message
    assert "check" in (caught.value.hint or "")


@pytest.mark.parametrize("tool", TOOLS)
async def test_enforce_opens_for_the_documented_reader(tool: str, databases: Pair) -> None:
    async with gateway_over(databases, posture="enforce") as gateway:
        assert (await call(gateway, tool, **TOOLS[tool]))["profile"] == "first"


async def test_warn_opens_for_a_superuser(databases: Pair) -> None:
    async with gateway_over(databases, as_superuser=True, posture="warn") as gateway:
        assert (await call(gateway, "execute_query", query="SELECT 1"))["rows"] == [[1]]


async def test_a_closed_profile_stays_closed_and_closes_no_other(databases: Pair) -> None:
    closed = profile_of(databases.first, "closed", as_superuser=True, posture="enforce")
    open_profile = profile_of(databases.second, "open", posture="enforce")
    async with Gateway(config_of(closed, open_profile), environ={}) as gateway:
        for _ in range(3):
            with pytest.raises(Forbidden):
                await call(gateway, "execute_query", query="SELECT 1", profile="closed")
            answer = await call(gateway, "execute_query", query="SELECT 1", profile="open")
            assert answer["profile"] == "open"


@pytest.mark.parametrize("grant", GRANTS)
async def test_enforce_refuses_a_role_that_may_do_more(grant: str, own_databases: Pair) -> None:
    database = own_databases.first
    sql, word = GRANTS[grant]
    role = f"w_{database.name}"
    async with database.connection() as admin:
        await admin.execute(
            f"CREATE ROLE {role} LOGIN PASSWORD 'w'; GRANT CONNECT ON DATABASE {database.name} TO {role}"
        )
        await admin.execute(sql.replace(" w", f" {role}"))
    try:
        profile = profile_of(database, "first", user=role, password="literal:w", posture="enforce")
        async with Gateway(config_of(profile), environ={}) as gateway:
            with pytest.raises(Forbidden) as caught:
                await call(gateway, "execute_query", query="SELECT 1")
        assert word in caught.value.message
    finally:
        async with database.connection() as admin:
            await admin.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_enforce_closes_once_the_role_has_gained_rights_and_opens_once_it_has_lost_them(
    own_databases: Pair,
) -> None:
    profile = profile_of(own_databases.first, "first", posture="enforce")
    pools = Pools(environ={}, tell=log_record)
    judging = Judging(pools, guard=judge, snapshot_s=0)
    refusals: set[str] = set()

    async def is_open() -> bool:
        async with pools.of(profile).connection(Deadline.after(10)) as connection:
            try:
                await judging.ready(profile, judging.state(profile), connection)
            except Forbidden as error:
                refusals.add(error.message)
                return False
            return True

    async def is_closed() -> bool:
        return not await is_open()

    try:
        async with own_databases.first.connection() as admin:
            assert await is_open()
            await admin.execute("GRANT INSERT ON public.orders TO gateway_reader")
            assert await until(is_closed)
            assert [await is_open() for _ in range(5)] == [False] * 5
            await admin.execute("REVOKE INSERT ON public.orders FROM gateway_reader")
            assert await is_open()
        assert [message.endswith("may write 1 table (public.orders)") for message in refusals] == [True]
    finally:
        judging.close()
        await pools.close()


async def test_the_posture_of_the_documented_reader_has_no_risks(databases: Pair) -> None:
    async with databases.first.connection(as_reader=True) as connection:
        assert (await posture_of(connection)).risks == ()


async def test_an_extension_that_dials_is_a_risk_until_nobody_may_call_it(own_databases: Pair) -> None:
    database = own_databases.first
    async with database.connection() as admin:
        if not await admin.fetchval("SELECT count(*) FROM pg_available_extensions WHERE name = 'dblink'"):
            pytest.skip("this PostgreSQL has no dblink")
        await admin.execute("CREATE EXTENSION dblink")
        async with database.connection(as_reader=True) as reader:
            assert "dblink" in " ".join((await posture_of(reader)).risks)
            for function in await admin.fetch(
                "SELECT p.oid::regprocedure::text AS name FROM pg_proc p WHERE p.proname LIKE 'dblink%'"
            ):
                await admin.execute(f"REVOKE EXECUTE ON FUNCTION {function['name']} FROM PUBLIC")

            assert (await posture_of(reader)).risks == ()
