"""What a profile is told that does not fit its PgBouncer, and what `pg-gateway check` says of one that does."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.check import check_profile
from gateway.errors import ConfigError, GatewayError
from gateway.session import start_up_settings
from tests.support.gateway import call, profile_of
from tests.support.pgbouncer import PgBouncer, gateway_behind, pooled
from tests.support.postgres import Pair

pytestmark = pytest.mark.anyio


@pytest.fixture
async def pooler(own_databases: Pair) -> AsyncIterator[PgBouncer]:
    async with PgBouncer.before(own_databases.first) as running:
        yield running


async def test_a_profile_that_knows_nothing_of_the_pooler_is_told_of_the_key(
    pooler: PgBouncer, own_databases: Pair
) -> None:
    async with gateway_behind(pooler, own_databases, pooler="none") as gateway:
        started = time.monotonic()
        with pytest.raises(ConfigError, match="unsupported startup parameter") as caught:
            await call(gateway, "list_tables")

    assert time.monotonic() - started < 1.0
    assert caught.value.sqlstate == "08P01"
    assert 'pooler = "pgbouncer"' in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"password": "literal:wrong"}, "auth_failed", "auth_file"),
        ({"user": "nobody_knows"}, "auth_failed", "auth_file"),
        ({"database": "no_such_database"}, "config_error", "database"),
    ],
    ids=["password", "user", "database"],
)
async def test_a_login_that_the_pooler_refuses_is_told_as_what_it_is_and_not_repeated(
    changes: dict[str, Any], code: str, words: str, pooler: PgBouncer, own_databases: Pair
) -> None:
    async with gateway_behind(pooler, own_databases, **changes) as gateway:
        started = time.monotonic()
        with pytest.raises(GatewayError) as caught:
            await call(gateway, "list_tables")

    assert (caught.value.code, caught.value.repeat) == (code, "never")
    assert words in f"{caught.value.message} {caught.value.hint}"
    assert time.monotonic() - started < 1.0


async def test_check_passes_and_says_that_there_is_a_pooler(pooler: PgBouncer, own_databases: Pair) -> None:
    profile = pooled(pooler, own_databases.first)

    hops = {hop.name: hop async for hop in check_profile(profile, environ={}, timeout_s=10)}

    assert {hop.state for hop in hops.values()} == {"ok"}, hops
    assert hops["session"].detail == "read-only in each transaction, as behind a pooler (pgbouncer)"
    assert hops["rights"].detail == f"{own_databases.first.reader} can only read"


async def test_check_names_the_key_that_is_missing(pooler: PgBouncer, own_databases: Pair) -> None:
    profile = pooled(pooler, own_databases.first, pooler="none")

    *_, last = [hop async for hop in check_profile(profile, environ={}, timeout_s=10)]

    assert (last.name, last.state) == ("login", "failed")
    assert 'pooler = "pgbouncer"' in (last.hint or "")


async def test_check_notices_a_pooler_that_drops_what_it_does_not_know(own_databases: Pair) -> None:
    sent = start_up_settings(profile_of(own_databases.first, "first"), "name")
    ignoring = {"ignore_startup_parameters": ",".join(name for name in sent if name != "application_name")}
    async with PgBouncer.before(own_databases.first, settings=ignoring) as careless:
        # The reader's own role is read-only by itself.
        profile = profile_of(
            own_databases.first, "first", as_superuser=True, endpoints=(careless.endpoint,), pooler="none"
        )
        hops = [hop async for hop in check_profile(profile, environ={}, timeout_s=10)]

    (failed,) = [hop for hop in hops if hop.state == "failed"]
    assert failed.name in ("server", "session"), hops
    assert 'pooler = "pgbouncer"' in (failed.hint or "")
