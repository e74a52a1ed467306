"""The probe of `tests/support/effects.py` itself: each kind of effect is made once, past the gateway, and seen."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.corpus_server import CorpusServer
from tests.support.effects import Trap
from tests.support.strikes import Strikes

pytestmark = pytest.mark.anyio

SLEEPERS = "SELECT pid FROM pg_stat_activity WHERE query = $$SELECT pg_sleep(3600)$$"
# What a superuser may do, and a word of what is then seen.
SEEN = {
    "CREATE TABLE public.pwned (id int)": "pg_class",
    "UPDATE public.orders SET id = id": "orders",
    "SELECT nextval('public.order_numbers')": "order_numbers",
    "ALTER SYSTEM SET work_mem = '1GB'": "setting files",
    "GRANT ALL ON public.secrets TO PUBLIC": "pg_class",
    "ALTER ROLE gateway_reader SUPERUSER": "pg_authid",
    "ALTER DATABASE {} SET work_mem = '1GB'": "pg_db_role_setting",
    "SELECT lo_unlink(4711)": "pg_largeobject",
    "SELECT pg_notify('attack', 'x')": "notification",
    "SELECT pg_advisory_lock(1)": "locks",
    "SELECT pg_stat_reset()": "reset",
    "SELECT pg_reload_conf()": "SIGHUP",
    f"SELECT pg_cancel_backend(pid) FROM ({SLEEPERS}) AS x": "sleeping session",
    f"SELECT pg_terminate_backend(pid) FROM ({SLEEPERS}) AS x": "sleeping session",
    "SELECT pg_create_physical_replication_slot('pwned')": "slots",
    "SELECT pg_replication_origin_create('pwned')": "pg_replication_origin",
    "COPY (SELECT 1) TO '/tmp/pwned'": "files.pwned_outside",
    "CHECKPOINT": "checkpoint",
    "BEGIN; PREPARE TRANSACTION 'x'": "prepared transactions",
}


@pytest.fixture(scope="module")
async def trap(anyio_backend: str) -> AsyncIterator[Trap]:  # noqa: ARG001 - the loop of the whole session
    async with Trap.open() as opened:
        yield opened


@pytest.fixture(scope="module")
async def strikes(trap: Trap) -> AsyncIterator[Strikes]:
    async with CorpusServer.run(dial_port=trap.port) as corpus, Strikes.on(corpus, trap) as ready:
        yield ready


@pytest.mark.parametrize("sql", SEEN)
async def test_an_effect_is_seen(sql: str, strikes: Strikes) -> None:
    assert SEEN[sql] in " ".join(await strikes.effects_of(sql))


@pytest.mark.parametrize(
    "sql",
    ["SELECT count(*) FROM public.orders", "BEGIN; TRUNCATE public.order_items; ROLLBACK", "SELECT * FROM pg_locks"],
)
async def test_a_read_and_what_is_rolled_back_leave_nothing_to_see(sql: str, strikes: Strikes) -> None:
    assert await strikes.effects_of(sql) == []


async def test_a_dial_is_seen_where_dblink_is(strikes: Strikes) -> None:
    if "dblink" not in strikes.extensions:
        pytest.skip("this PostgreSQL has no dblink")

    assert "a dial-out" in await strikes.effects_of(
        "DO $$ BEGIN PERFORM dblink_connect('host=127.0.0.1 port=1'); EXCEPTION WHEN OTHERS THEN END $$"
    )


async def test_what_writes_to_the_log_of_writes_is_seen_where_it_can_be_read(strikes: Strikes) -> None:
    if "pg_walinspect" not in strikes.extensions:
        pytest.skip("this PostgreSQL has no pg_walinspect")

    assert "LogicalMessage" in " ".join(await strikes.effects_of("SELECT pg_logical_emit_message(false, 'a', 'b')"))
    assert "SWITCH" in " ".join(await strikes.effects_of("SELECT pg_switch_wal()"))
