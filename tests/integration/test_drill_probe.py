"""The drill's probe against real servers: it goes the way of the gateway, and asks the server for the same proof."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest
import trustme

from gateway.drill_probe import APPLICATION_NAME, Probe
from gateway.drill_records import Recording
from gateway.embedded import EmbeddedServer
from gateway.errors import ConfigError
from gateway.profiles import Endpoint, Profile, Tls
from tests.support.gateway import profile_of
from tests.support.missing import missing
from tests.support.polling import until
from tests.support.postgres import Pair, certificate

pytestmark = pytest.mark.anyio


async def seen_by(profile: Profile, *, tries: int = 2) -> list[bool]:
    """Return what the first tries of a probe found."""
    recording = Recording(scenario="none", summary="", call_s=10)
    stop = asyncio.Event()
    running = asyncio.create_task(Probe(profile, environ={}).run(recording, stop))
    assert await until(lambda: len(recording.probes) >= tries or running.done())
    stop.set()
    await running
    return [it.answered for it in recording.probes[:tries]]


def led(profile_host: str, via: tuple[str, int]) -> Endpoint:
    return Endpoint(host=profile_host, port=1, via=via)


async def test_a_probe_goes_where_the_proxy_is_and_not_to_the_profiles_address(databases: Pair) -> None:
    there = (databases.first.host, databases.first.port)
    profile = profile_of(databases.first, "first", endpoints=(led("nowhere.invalid", there),))
    assert await seen_by(profile) == [True, True]


async def test_a_probe_of_several_hosts_is_answered_by_any(databases: Pair) -> None:
    hosts = (led("a.invalid", ("127.0.0.1", 1)), led("b.invalid", (databases.first.host, databases.first.port)))
    assert await seen_by(profile_of(databases.first, "first", endpoints=hosts)) == [True, True]


async def test_a_refused_login_and_a_refused_port_are_no_answer(databases: Pair) -> None:
    there = (databases.first.host, databases.first.port)
    wrong = profile_of(databases.first, "first", endpoints=(led("x", there),), password="literal:wrong")
    closed = profile_of(databases.first, "first", endpoints=(led("x", ("127.0.0.1", 1)),))

    assert await seen_by(wrong) == [False, False]
    assert await seen_by(closed) == [False, False]


async def test_probes_go_on_looking_while_others_wait_for_a_silent_server(databases: Pair) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(50)
        profile = profile_of(databases.first, "first", endpoints=(led("x", silent.getsockname()[:2]),))
        assert await seen_by(profile, tries=3) == [False, False, False]


async def test_a_probe_leaves_no_session_behind(own_databases: Pair) -> None:
    there = (own_databases.first.host, own_databases.first.port)
    assert all(await seen_by(profile_of(own_databases.first, "first", endpoints=(led("x", there),))))

    async with own_databases.first.connection() as admin:

        async def is_gone() -> bool:
            count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND datname = $2"
            return bool(await admin.fetchval(count, APPLICATION_NAME, own_databases.first.name) == 0)

        assert await until(is_gone)


@pytest.mark.parametrize(("name", "expected"), [("localhost", [True, True]), ("other.example", [False, False])])
async def test_a_server_has_to_prove_the_name_of_the_profile(tmp_path: Path, name: str, expected: list[bool]) -> None:
    authority = trustme.CA()
    root = tmp_path / "root.pem"
    authority.cert_pem.write_to_path(root)
    tls = certificate(authority, tmp_path / "server", "localhost")
    try:
        async with EmbeddedServer.create(tls=tls) as server:
            profile = Profile(
                name="tls",
                endpoints=(led(name, (server.host, server.port)),),
                database="postgres",
                user=server.user,
                password=f"literal:{server.password}",
                tls=Tls(mode="verify-full", root_cert=str(root)),
            )
            assert await seen_by(profile) == expected
    except ConfigError as error:
        missing(error.message)
