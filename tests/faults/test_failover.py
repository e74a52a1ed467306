"""Several hosts, with a real streaming standby: which one is asked, and what happens when they change places."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from gateway.app import Gateway
from gateway.connect import Dialler, GatewayConnection
from gateway.deadline import Deadline
from gateway.dial_loop import LookUp, look_up
from gateway.embedded import EmbeddedServer
from gateway.errors import AuthFailed, Unavailable
from gateway.hosts import DialOne, Watch, dial_target
from gateway.pools import ProfilePool
from gateway.profiles import Endpoint, Limits, PoolSettings, Profile, Target, Tls
from tests.faults.load import under_load
from tests.support.gateway import call, config_of
from tests.support.pgbouncer import PgBouncer
from tests.support.polling import until
from tests.support.postgres import Database
from tests.support.replica import Replicated, ask, follow, promote, replicated

pytestmark = pytest.mark.anyio

ORDERS = pytest.mark.parametrize("first", ["primary", "standby"])


def at(server: EmbeddedServer) -> Endpoint:
    return Endpoint(host=server.host, port=server.port)


def profile_over(*servers: EmbeddedServer, target: Target) -> Profile:
    return Profile(
        name="db",
        endpoints=tuple(at(server) for server in servers),
        database="postgres",
        user=servers[0].user,
        password=f"literal:{servers[0].password}",
        tls=Tls(mode="disable"),
        pool=PoolSettings(min=0, max=5),
        limits=Limits(call_s=12.0, statement_s=10.0),
        target=target,
    )


def dialling(profile: Profile) -> DialOne:
    dialler = Dialler(profile, environ={}, tell=lambda _record: None)

    async def dial_one(endpoint: Endpoint, deadline: Deadline) -> GatewayConnection:
        return await dialler.dial(endpoint, deadline=deadline)

    return dial_one


async def dialled(profile: Profile, watch: Watch | None = None, *, within_s: float = 5.0) -> Endpoint | None:
    """Return where the profile's next connection leads."""
    connection = await dial_target(
        profile, dialling(profile), deadline=Deadline.after(within_s), watch=watch or Watch(profile)
    )
    connection.terminate()
    return connection.endpoint


@pytest.fixture(scope="module")
async def steady() -> AsyncIterator[Replicated]:
    """Give two servers that keep their roles."""
    async with replicated() as servers:
        yield servers


@pytest.fixture
async def servers() -> AsyncIterator[Replicated]:
    async with replicated() as own:
        yield own


@pytest.fixture
def silent() -> Iterator[Endpoint]:
    """Give a host that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield Endpoint(host="127.0.0.1", port=listener.getsockname()[1])


@ORDERS
@pytest.mark.parametrize(
    ("target", "expected"),
    [("any", None), ("primary", "primary"), ("standby", "standby"), ("prefer-standby", "standby")],
)
async def test_the_host_of_the_right_role_is_dialled_in_whatever_order_they_stand(
    steady: Replicated, first: str, target: Target, expected: str | None
) -> None:
    profile = profile_over(*steady.by(first), target=target)

    found = await dialled(profile)

    assert found == at(steady.by(expected or first)[0])


async def test_a_primary_will_do_where_a_standby_is_preferred_and_none_answers(steady: Replicated) -> None:
    profile = profile_over(steady.primary, target="prefer-standby")
    nobody = Endpoint(host="127.0.0.1", port=1)

    assert await dialled(replace(profile, endpoints=(nobody, at(steady.primary)))) == at(steady.primary)
    assert await dialled(replace(profile, endpoints=(at(steady.primary), nobody))) == at(steady.primary)


@ORDERS
async def test_a_role_that_nobody_has_is_told_with_what_each_host_said(steady: Replicated, first: str) -> None:
    nobody = Endpoint(host="127.0.0.1", port=1)
    present = steady.by(first)[0]
    wanted: Target = "standby" if first == "primary" else "primary"
    profile = replace(profile_over(present, target=wanted), endpoints=(at(present), nobody))

    with pytest.raises(Unavailable) as caught:
        await dialled(profile)

    assert caught.value.message == (
        f"no {wanted} among the hosts of profile db: {at(present)} is a {first}, 127.0.0.1:1 refused the connection"
    )
    assert (caught.value.repeat, caught.value.transient) == ("always", True)
    assert "failover" in (caught.value.hint or "")


async def test_a_refused_login_is_not_tried_on_the_next_host(steady: Replicated) -> None:
    asked: list[Endpoint] = []
    profile = replace(profile_over(steady.primary, steady.standby, target="standby"), password="literal:wrong")
    dial_one = dialling(profile)

    async def noted(endpoint: Endpoint, deadline: Deadline) -> GatewayConnection:
        asked.append(endpoint)
        return await dial_one(endpoint, deadline)

    with pytest.raises(AuthFailed):
        await dial_target(profile, noted, deadline=Deadline.after(5), watch=Watch(profile))

    assert asked == [at(steady.primary)]


async def test_a_silent_first_host_costs_its_share_once_and_goes_last_then(
    steady: Replicated, silent: Endpoint
) -> None:
    profile = replace(profile_over(steady.primary, target="primary"), endpoints=(silent, at(steady.primary)))
    watch = Watch(profile)

    started = time.monotonic()
    found = await dialled(profile, watch, within_s=2.0)
    first_s, started = time.monotonic() - started, time.monotonic()
    again = await dialled(profile, watch, within_s=2.0)
    second_s = time.monotonic() - started

    assert (found, again) == (at(steady.primary), at(steady.primary))
    assert 0.9 < first_s < 1.5
    assert second_s < 0.5


async def test_when_all_hosts_are_silent_the_deadline_holds_and_each_is_named(silent: Endpoint) -> None:
    other = Endpoint(host="127.0.0.1", port=1)
    profile = Profile(name="db", endpoints=(silent, other), database="d", user="u", tls=Tls(mode="disable"))

    started = time.monotonic()
    with pytest.raises(Unavailable, match="no host of profile db can be reached") as caught:
        await dialled(profile, within_s=1.0)

    assert time.monotonic() - started < 1.5
    assert str(silent) in caught.value.message
    assert str(other) in caught.value.message


async def test_a_host_that_failed_is_first_again_after_a_while(steady: Replicated) -> None:
    clock = [0.0]
    profile = profile_over(*steady.by("primary"), target="any")
    watch = Watch(profile, clock=lambda: clock[0])

    watch.failed(at(steady.primary))
    just_now = watch.order()
    clock[0] = 60.0

    assert just_now == [at(steady.standby), at(steady.primary)]
    assert watch.order() == [at(steady.primary), at(steady.standby)]


async def test_a_primary_left_behind_is_refused_once_a_higher_timeline_has_been_seen(servers: Replicated) -> None:
    old, new = servers.primary, servers.standby
    profile = profile_over(old, new, target="primary")
    watch, dial_one = Watch(profile), dialling(profile)
    connection = await dial_target(profile, dial_one, deadline=Deadline.after(5), watch=watch)
    await promote(new)
    fitted_before = watch.fits(connection)

    await watch.look(dial_one)

    assert fitted_before
    assert not watch.fits(connection)
    assert watch.unfit() == [connection]
    assert await dialled(profile, watch) == at(new)
    await new.stop()
    with pytest.raises(Unavailable, match=f"{at(old)} is a primary left behind on timeline 1 by a failover to 2"):
        await dialled(profile, watch)
    connection.terminate()


async def test_a_promotion_under_load_loses_no_read(servers: Replicated) -> None:
    async def fail_over() -> None:
        await servers.primary.stop("immediate")
        await promote(servers.standby)

    profile = profile_over(servers.primary, servers.standby, target="primary")
    async with Gateway(config_of(profile), environ={}) as gateway:
        load = await under_load(gateway, "db", fail_over)
        last = await call(gateway, "execute_query", query="SHOW port")

    assert load.lost == []
    assert load.longest_s < 12.0 + 2.0
    assert last["rows"] == [[str(servers.standby.port)]]


async def test_a_primary_takes_over_from_a_standby_that_stops_under_load(servers: Replicated) -> None:
    async def stop() -> None:
        await servers.standby.stop("immediate")

    profile = profile_over(servers.primary, servers.standby, target="prefer-standby")
    async with Gateway(config_of(profile), environ={}) as gateway:
        first = await call(gateway, "execute_query", query="SHOW port")
        load = await under_load(gateway, "db", stop)
        last = await call(gateway, "execute_query", query="SHOW port")

    assert first["rows"] == [[str(servers.standby.port)]]
    assert load.lost == []
    assert last["rows"] == [[str(servers.primary.port)]]


@asynccontextmanager
async def pool_of(
    profile: Profile, *, look_every_s: float = 0.1, look_up: LookUp = look_up
) -> AsyncIterator[ProfilePool]:
    """Run a pool that looks at its hosts more often than a real one."""
    pool = ProfilePool(profile, environ={}, tell=lambda _record: None, look_up=look_up, look_every_s=look_every_s)
    try:
        yield pool
    finally:
        await pool.close()


async def backend(pool: ProfilePool) -> tuple[int, int]:
    """Return the port of the server that answers, and the process of the connection there."""
    async with pool.connection(Deadline.after(5)) as connection:
        port = await connection.fetchval("SELECT current_setting('port')")
        return int(port), connection.get_server_pid()


async def is_gone(server: EmbeddedServer, pid: int) -> bool:
    return await ask(server, f"SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {pid})") is True


@ORDERS
async def test_connections_to_a_frozen_primary_that_wakes_up_after_a_failover_are_ended(
    servers: Replicated, first: str
) -> None:
    old, new = servers.primary, servers.standby
    async with pool_of(profile_over(*servers.by(first), target="primary")) as pool:
        port, pid = await backend(pool)
        old.pause()
        await promote(new)
        old.resume()

        # Nobody calls meanwhile.
        assert await until(lambda: is_gone(old, pid))
        assert await ask(old, "SELECT NOT pg_is_in_recovery()")
        assert port == old.port
        assert (await backend(pool))[0] == new.port


async def test_a_promoted_standby_leaves_the_pool_of_a_profile_for_standbys(servers: Replicated) -> None:
    old, new = servers.primary, servers.standby
    async with pool_of(profile_over(new, old, target="standby")) as pool:
        port, pid = await backend(pool)
        await old.stop()
        await promote(new)
        await follow(old, new)

        assert await until(lambda: is_gone(new, pid))
        assert port == new.port
        assert (await backend(pool))[0] == old.port


async def test_a_promotion_is_noticed_without_looking_from_what_the_server_says_itself(servers: Replicated) -> None:
    if servers.standby.major_version < 14:
        pytest.skip("PostgreSQL 13 does not say")
    async with pool_of(profile_over(servers.standby, target="standby"), look_every_s=1000) as pool:
        _, pid = await backend(pool)
        await promote(servers.standby)
        # The reply to this one says it.
        await backend(pool)

        assert await until(lambda: is_gone(servers.standby, pid))
        with pytest.raises(Unavailable, match="is a primary"):
            await backend(pool)


async def test_an_idle_connection_that_no_longer_fits_is_not_handed_out(servers: Replicated) -> None:
    profile = profile_over(servers.primary, servers.standby, target="primary")
    async with pool_of(profile, look_every_s=1000) as pool:
        before, _ = await backend(pool)
        await promote(servers.standby)
        # What a dial for another caller may find out just as well.
        await pool._watch.look(dialling(profile))

        assert before == servers.primary.port
        assert (await backend(pool))[0] == servers.standby.port


async def test_a_standby_that_is_there_again_is_preferred_again(servers: Replicated) -> None:
    await servers.standby.stop()
    async with pool_of(profile_over(servers.primary, servers.standby, target="prefer-standby")) as pool:
        before, pid = await backend(pool)
        await servers.standby.start()

        assert await until(lambda: is_gone(servers.primary, pid))
        assert before == servers.primary.port
        assert (await backend(pool))[0] == servers.standby.port


async def test_a_failover_is_followed_behind_poolers(servers: Replicated) -> None:
    old, new = servers.primary, servers.standby
    async with before(old) as first, before(new) as second:
        profile = replace(
            profile_over(old, target="primary"), endpoints=(second.endpoint, first.endpoint), pooler="pgbouncer"
        )
        async with pool_of(profile) as pool:
            led_before = await leads_to(pool)
            await promote(new)

            assert led_before == first.endpoint
            assert await until(lambda: leads_away(pool, first.endpoint))
            assert await leads_to(pool) == second.endpoint


async def leads_to(pool: ProfilePool) -> Endpoint | None:
    async with pool.connection(Deadline.after(5)) as connection:
        return connection.endpoint


async def leads_away(pool: ProfilePool, endpoint: Endpoint) -> bool:
    return await leads_to(pool) != endpoint


async def test_a_gateway_that_starts_after_a_failover_finds_the_new_primary_at_once(servers: Replicated) -> None:
    await promote(servers.standby)
    async with pool_of(profile_over(servers.primary, servers.standby, target="primary"), look_every_s=1000) as pool:
        assert await leads_to(pool) == at(servers.primary)

        assert await until(lambda: leads_away(pool, at(servers.primary)))
        assert await leads_to(pool) == at(servers.standby)


def before(server: EmbeddedServer) -> AbstractAsyncContextManager[PgBouncer]:
    """Run a PgBouncer before a server."""
    login = Database(server=server, name="postgres", reader=server.user, reader_password=server.password)
    return PgBouncer.before(login)


async def test_connections_to_an_address_that_the_name_has_no_longer_are_ended(servers: Replicated) -> None:
    old = servers.primary
    async with EmbeddedServer.create(settings={"listen_addresses": "127.0.0.1,127.0.0.2"}) as new:
        await ask(new, f"ALTER ROLE {new.user} PASSWORD '{old.password}'")
        new.password = old.password
        answers = [("127.0.0.1", old.port)]

        def moving(_host: str, _port: int) -> list[Any]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", answer) for answer in answers]

        profile = replace(profile_over(old, target="any"), endpoints=(Endpoint(host="db.example", port=old.port),))
        async with pool_of(profile, look_up=moving) as pool:
            port, pid = await backend(pool)
            answers[:] = [("127.0.0.2", new.port)]

            assert await until(lambda: is_gone(old, pid))
            assert port == old.port
            assert (await backend(pool))[0] == new.port


async def test_a_name_whose_addresses_rotate_keeps_its_connections(servers: Replicated) -> None:
    old = servers.primary
    asked: list[str] = []

    def rotating(_host: str, _port: int) -> list[Any]:
        # The dial is the first to ask.
        address = "127.0.0.2" if len(asked) % 2 else "127.0.0.1"
        asked.append(address)
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, old.port))]

    profile = replace(profile_over(old, target="any"), endpoints=(Endpoint(host="db.example", port=old.port),))
    async with pool_of(profile, look_every_s=0.02, look_up=rotating) as pool:
        first = await backend(pool)

        assert await until(lambda: len(asked) > 12)
        assert await backend(pool) == first
