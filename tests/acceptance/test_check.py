"""`pg-gateway check`: each hop is broken by itself, and what is said of it is read."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import trustme

from gateway.check import LAG_S, Hop, check_profile
from gateway.embedded import EmbeddedServer
from gateway.embedded_binaries import find_binaries
from gateway.errors import ConfigError
from gateway.profiles import Endpoint, Profile, Tls
from tests.support.polling import until
from tests.support.postgres import Database, Pair, certificate, chosen_binaries, quick_folder
from tests.support.processes import Ended, environment, run
from tests.support.replica import ask, has_replayed_all, promote, replicated

pytestmark = pytest.mark.anyio

HOPS = ["configuration", "DNS", "TCP", "TLS", "login", "server", "session", "rights"]


def profile(**keys: Any) -> str:
    """Return a profiles.toml with one profile, `db`."""
    known = {"host": "127.0.0.1", "port": 5432, "database": "shop", "user": "reader", "ssl_mode": "disable", **keys}
    return "\n".join(["[profiles.db]", *(f"{key} = {json.dumps(value)}" for key, value in known.items()), ""])


def of(read: Database, /, **keys: Any) -> str:
    """Return a profiles.toml whose profile reads this database."""
    known = {"host": read.host, "port": read.port, "database": read.name, "user": read.reader}
    return profile(**{**known, "password": f"literal:{read.reader_password}", **keys})


async def check(folder: Path, text: str, *options: str, timeout_s: float = 10.0, **variables: str) -> Ended:
    (folder / "profiles.toml").write_text(text)
    return await run("check", "--timeout", str(timeout_s), *options, cwd=folder, environ=environment(**variables))


async def hops(
    folder: Path, text: str, *, timeout_s: float = 10.0, **variables: str
) -> tuple[int, list[dict[str, Any]]]:
    """Return the exit code and the hops of the profile."""
    ended = await check(folder, text, "--json", timeout_s=timeout_s, **variables)
    assert ended.err == ""
    return ended.code, json.loads(ended.out)["db"]


async def broken(folder: Path, text: str, *, timeout_s: float = 10.0, **variables: str) -> dict[str, Any]:
    """Return the hop that failed, having seen that it is the last and the only one, and that it has a hint."""
    code, found = await hops(folder, text, timeout_s=timeout_s, **variables)
    assert code == 1
    assert [hop["name"] for hop in found] == HOPS[: len(found)]
    assert "failed" not in [hop["state"] for hop in found[:-1]]
    assert found[-1]["state"] == "failed"
    assert found[-1]["hint"]
    return found[-1]


async def test_a_reader_on_a_healthy_server_passes_every_hop(tmp_path: Path, databases: Pair) -> None:
    code, found = await hops(tmp_path, of(databases.first))

    assert code == 0
    assert [hop["name"] for hop in found] == HOPS
    assert {hop["state"] for hop in found} == {"ok"}, found
    details = {hop["name"]: hop["detail"] for hop in found}
    assert details["server"].startswith(f"PostgreSQL {databases.first.server.major_version}")
    assert details["session"] == "read-only"
    assert details["rights"] == f"{databases.first.reader} can only read"


async def test_all_profiles_are_checked_and_one_that_fails_is_told_from_the_others(
    tmp_path: Path, databases: Pair
) -> None:
    text = of(databases.first) + profile(port=1).replace("profiles.db", "profiles.dead") + 'default = "db"'
    text = 'default = "db"\n' + text.removesuffix('default = "db"')

    both = await check(tmp_path, text)
    one = await check(tmp_path, text, "db")

    assert (both.code, one.code) == (1, 0)
    assert "can only read" in both.out
    assert "✗ TCP" in both.out
    assert "dead" not in one.out
    assert databases.first.reader_password not in both.out + both.err


async def test_an_unknown_profile_is_refused_with_those_there_are(tmp_path: Path) -> None:
    ended = await check(tmp_path, profile(), "bd")
    assert ended.code == 2
    assert "'bd'" in ended.err
    assert "db" in ended.err


async def test_configuration_a_password_that_is_not_there(tmp_path: Path) -> None:
    hop = await broken(tmp_path, profile(password="env:DB_SECRET"))
    assert hop["name"] == "configuration"
    assert "DB_SECRET is not set" in hop["detail"]
    hop = await broken(tmp_path, profile(password="file:absent"))
    assert "absent" in hop["detail"]


async def test_configuration_what_this_version_cannot_do(tmp_path: Path) -> None:
    ended = await check(tmp_path, profile(cache_s=1.5), "--json")
    hop = json.loads(ended.out)["db"][-1]
    assert (ended.code, hop["name"], hop["state"]) == (1, "configuration", "failed")
    assert "cache_s = 1.5" in hop["detail"]


async def test_dns_an_unknown_name(tmp_path: Path) -> None:
    hop = await broken(tmp_path, profile(host="nowhere.invalid"))
    assert hop["name"] == "DNS"
    assert "nowhere.invalid" in hop["detail"]


async def test_tcp_a_port_where_nothing_listens(tmp_path: Path) -> None:
    hop = await broken(tmp_path, profile(port=1))
    assert hop["name"] == "TCP"
    assert "127.0.0.1:1 refused the connection" in hop["detail"]


async def test_tcp_a_port_that_never_answers(tmp_path: Path) -> None:
    with full_backlog() as port:
        hop = await broken(tmp_path, profile(port=port), timeout_s=1)
    assert (hop["name"], hop["detail"]) == ("TCP", "no answer within 1 s")
    assert "firewall" in hop["hint"]
    assert 0.9 < hop["seconds"] < 2


async def test_tls_a_server_that_takes_connections_and_says_nothing(tmp_path: Path) -> None:
    with listening(None) as port:
        hop = await broken(tmp_path, profile(port=port, ssl_mode="require"), timeout_s=1)
    assert (hop["name"], hop["detail"]) == ("TLS", "no answer within 1 s")
    assert "PostgreSQL" in hop["hint"]


async def test_tls_a_server_that_offers_none(tmp_path: Path, databases: Pair) -> None:
    with listening(b"N") as port:
        hop = await broken(tmp_path, profile(port=port, ssl_mode="require"))
    assert hop["name"] == "TLS"
    assert "does not offer TLS, which ssl_mode = require requires" in hop["detail"]

    code, found = await hops(tmp_path, of(databases.first, ssl_mode="prefer"))
    assert (code, found[3]["name"]) == (0, "TLS")
    assert "offers none" in found[3]["detail"]


async def test_tls_a_server_that_is_no_postgresql(tmp_path: Path) -> None:
    with listening(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        hop = await broken(tmp_path, profile(port=port, ssl_mode="prefer"))
    assert hop["name"] == "TLS"
    assert "does not answer as PostgreSQL does" in hop["detail"]


async def test_login_a_server_that_takes_connections_and_says_nothing(tmp_path: Path) -> None:
    with listening(None) as port:
        hop = await broken(tmp_path, profile(port=port), timeout_s=1)
    assert (hop["name"], hop["detail"]) == ("login", "no answer within 1 s")
    assert "pg-gateway check" not in hop["hint"]


async def test_login_a_wrong_password(tmp_path: Path, databases: Pair) -> None:
    hop = await broken(tmp_path, of(databases.first, password="env:DB_SECRET"), DB_SECRET="swordfish")
    assert hop["name"] == "login"
    assert databases.first.reader in hop["detail"]
    assert "env:DB_SECRET" in hop["hint"]
    assert "swordfish" not in json.dumps(hop)


async def test_login_an_unknown_database(tmp_path: Path, databases: Pair) -> None:
    hop = await broken(tmp_path, of(databases.first, database="shpo"))
    assert hop["name"] == "login"
    assert '"shpo" does not exist' in hop["detail"]
    assert "`database`" in hop["hint"]


@dataclass(frozen=True, slots=True)
class Guarded:
    """A server with TLS whose certificate is for `localhost` alone, and that admits the superuser only, by TLS only."""

    server: EmbeddedServer
    root: Path
    stranger: Path

    def profile(self, **keys: Any) -> str:
        known = {"host": "localhost", "port": self.server.port, "database": "postgres", "user": self.server.user}
        return profile(**{**known, "password": f"literal:{self.server.password}", **keys})


@pytest.fixture(scope="module")
async def guarded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Guarded]:
    try:
        binaries = chosen_binaries()
        binaries = binaries if binaries.source != "wheel" else find_binaries("system")
    except ConfigError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"the wheel's server knows no TLS, and {error.message}")
    folder = tmp_path_factory.mktemp("tls")
    authority, other = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(folder / "root.pem")
    other.cert_pem.write_to_path(folder / "stranger.pem")
    async with EmbeddedServer.create(
        binaries=binaries,
        inside=quick_folder(),
        tls=certificate(authority, folder / "server", "localhost"),
        hba=["hostssl all postgres 127.0.0.1/32 scram-sha-256", "hostssl all postgres ::1/128 scram-sha-256"],
    ) as server:
        yield Guarded(server, folder / "root.pem", folder / "stranger.pem")


async def test_tls_a_certificate_that_is_checked(tmp_path: Path, guarded: Guarded) -> None:
    code, found = await hops(tmp_path, guarded.profile(ssl_mode="verify-full", ssl_root_cert=str(guarded.root)))
    assert code == 0
    assert found[3]["state"] == "ok"
    assert found[3]["detail"].endswith("certificate checked")
    assert "TLSv1." in found[3]["detail"]


async def test_tls_a_certificate_that_nobody_looks_at(tmp_path: Path, guarded: Guarded) -> None:
    code, found = await hops(tmp_path, guarded.profile(ssl_mode="require"))
    assert code == 0
    assert "certificate not checked" in found[3]["detail"]


async def test_tls_a_certificate_of_a_stranger(tmp_path: Path, guarded: Guarded) -> None:
    hop = await broken(tmp_path, guarded.profile(ssl_mode="verify-full", ssl_root_cert=str(guarded.stranger)))
    assert hop["name"] == "TLS"
    assert "not trusted" in hop["detail"]
    assert "ssl_root_cert" in hop["hint"]


async def test_tls_a_certificate_for_another_name(tmp_path: Path, guarded: Guarded) -> None:
    keys = {"host": "127.0.0.1", "ssl_root_cert": str(guarded.root)}
    hop = await broken(tmp_path, guarded.profile(ssl_mode="verify-full", **keys))
    assert hop["name"] == "TLS"
    assert "127.0.0.1" in hop["detail"]
    assert "name" in hop["hint"]
    code, _ = await hops(tmp_path, guarded.profile(ssl_mode="verify-ca", **keys))
    assert code == 0


async def test_tls_a_root_certificate_that_is_not_there(tmp_path: Path, guarded: Guarded) -> None:
    hop = await broken(tmp_path, guarded.profile(ssl_mode="verify-full", ssl_root_cert="/absent.pem"))
    assert hop["name"] == "TLS"
    assert "/absent.pem" in hop["detail"]


async def test_login_a_line_of_pg_hba_that_is_missing(tmp_path: Path, guarded: Guarded) -> None:
    for keys in ({"ssl_mode": "disable"}, {"ssl_mode": "require", "user": "somebody"}):
        hop = await broken(tmp_path, guarded.profile(**keys))
        assert hop["name"] == "login"
        assert "pg_hba.conf" in hop["detail"]
        assert "pg_hba.conf" in hop["hint"]


# What makes the role more than a reader, and what is said of it.
RISKS = {
    "ALTER ROLE {role} BYPASSRLS": "bypasses row security",
    "ALTER ROLE {role} CREATEDB": "may create roles or databases",
    "ALTER ROLE {role} REPLICATION": "may replicate",
    "GRANT pg_execute_server_program TO {role}": "is a member of pg_execute_server_program",
    "GRANT pg_signal_backend TO {role}": "is a member of pg_signal_backend",
    "GRANT UPDATE (name) ON public.products TO {role}": "may write 2 tables (public.orders, public.products)",
    "GRANT CREATE ON SCHEMA public TO {role}": "may create objects in public",
    "ALTER TABLE public.orders OWNER TO {role}": "owns 1 table (public.orders)",
}


async def test_a_standby_is_shown_with_its_lag_and_what_target_means_for_each_host(tmp_path: Path) -> None:
    async with replicated() as servers, reader_of(servers.primary) as login:
        assert await until(lambda: has_replayed_all(servers.standby, servers.primary))
        both = [f"{server.host}:{server.port}" for server in (servers.primary, servers.standby)]
        keys = {"hosts": both, "database": "postgres", **login}
        code, found = await hops(tmp_path, without_host(target="standby", **keys))
        none_code, none = await hops(tmp_path, without_host(target="standby", **{**keys, "hosts": both[:1]}))

    assert code == 0, found
    assert [hop["name"] for hop in found if hop["name"] in ("server", "replication", "hosts")] == [
        *("server", "server", "replication", "hosts"),
    ]
    details = [hop["detail"] for hop in found]
    assert sum(detail.endswith('primary, does not fit target = "standby"') for detail in details) == 1
    assert sum(detail.endswith('standby, fits target = "standby"') for detail in details) == 1
    assert "0.0 s behind, 0 bytes to replay" in details
    assert details[-1] == f"{both[0]} is a primary on timeline 1, {both[1]} is a standby"
    assert {hop["state"] for hop in found} == {"ok"}, found
    assert (none_code, none[-1]["name"], none[-1]["state"]) == (1, "hosts", "failed")
    assert 'none of the hosts fits target = "standby"' in none[-1]["detail"]


async def test_replication_that_is_paused_late_or_cut_is_a_warning() -> None:
    async with replicated() as servers, reader_of(servers.primary) as login:
        assert await until(lambda: has_replayed_all(servers.standby, servers.primary))
        watched = Profile(
            name="db",
            endpoints=(Endpoint(host=servers.standby.host, port=servers.standby.port),),
            database="postgres",
            user=login["user"],
            password=login["password"],
            tls=Tls(mode="disable"),
        )
        await ask(servers.standby, "SELECT pg_wal_replay_pause()::text")
        await ask(servers.primary, "CREATE TABLE much AS SELECT generate_series(1, 10000)")

        async def is_behind() -> bool:
            return " 0 bytes" not in (await replication(watched)).detail

        assert await until(is_behind)
        paused = await replication(watched)
        await ask(servers.standby, "SELECT pg_wal_replay_resume()::text")
        assert await until(lambda: has_replayed_all(servers.standby, servers.primary))
        level = await replication(watched)
        strict = await replication(watched, lag_s=-1)
        await servers.primary.stop()

        async def is_cut() -> bool:
            return "receives nothing" in (await replication(watched)).detail

        assert await until(is_cut)
        cut = await replication(watched)

    assert paused.state == "warn"
    lag = re.fullmatch(r"replay is paused; (\d+\.\d) s behind, (\d+) bytes to replay", paused.detail)
    assert lag is not None, paused.detail
    assert int(lag[2]) > 100_000
    assert (level.state, level.detail) == ("ok", "0.0 s behind, 0 bytes to replay")
    assert (strict.state, strict.detail) == ("warn", "0.0 s behind, 0 bytes to replay: more than -1 s")
    assert cut.state == "warn"
    assert re.fullmatch(
        r"receives nothing from a primary; the last transaction that it has replayed is \d+ s old", cut.detail
    )


async def test_a_primary_that_a_failover_has_left_behind_is_named(tmp_path: Path) -> None:
    async with replicated() as servers, reader_of(servers.primary) as login:
        await promote(servers.standby)
        both = [f"{server.host}:{server.port}" for server in (servers.primary, servers.standby)]
        code, found = await hops(tmp_path, without_host(hosts=both, database="postgres", **login))

    assert code == 0
    assert (found[-1]["name"], found[-1]["state"]) == ("hosts", "warn")
    assert found[-1]["detail"].startswith(f"a failover has left behind {both[0]}: ")


async def test_hosts_that_are_no_copies_of_one_database_are_named(tmp_path: Path, databases: Pair) -> None:
    both = [f"{database.host}:{database.port}" for database in databases]
    async with AsyncExitStack() as stack:
        for database in databases:
            await stack.enter_async_context(reader_of(database.server))
        keys = {"hosts": both, "database": "postgres", "user": PLAIN, "password": "literal:a secret"}
        code, found = await hops(tmp_path, without_host(**keys))

    assert code == 0
    assert (found[-1]["name"], found[-1]["state"]) == ("hosts", "warn")
    assert found[-1]["detail"].startswith("these are not copies of one database: ")


def without_host(**keys: Any) -> str:
    """Return a profiles.toml with one profile, `db`, that names its hosts."""
    lines = profile(**keys).splitlines()
    return "\n".join([line for line in lines if not line.startswith(("host =", "port ="))] + [""])


PLAIN = "plain_reader"


@asynccontextmanager
async def reader_of(primary: EmbeddedServer) -> AsyncIterator[dict[str, str]]:
    """Make a role that can log in and no more, here and on every standby, for as long as the server can be asked."""
    await ask(primary, f"CREATE ROLE {PLAIN} LOGIN PASSWORD 'a secret'")
    try:
        yield {"user": PLAIN, "password": "literal:a secret"}
    finally:
        if primary.pid is not None:
            await ask(primary, f"DROP ROLE {PLAIN}")


async def replication(watched: Profile, *, lag_s: float = LAG_S) -> Hop:
    """Return what is said of a standby's replication, past the command."""
    found = [hop async for hop in check_profile(watched, environ={}, timeout_s=10, lag_s=lag_s)]
    return next(hop for hop in found if hop.name == "replication")


async def test_rights_each_way_to_do_more_than_read_is_named(tmp_path: Path, own_databases: Pair) -> None:
    database = own_databases.first
    role, secret = f"risky_{database.name}", "a secret"
    async with database.connection() as admin:
        await admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{secret}'")
        await admin.execute(f"GRANT CONNECT ON DATABASE {database.name} TO {role}")
        try:
            for sql in RISKS:
                await admin.execute(sql.format(role=role))
            keys = {"user": role, "password": f"literal:{secret}"}
            code, found = await hops(tmp_path, of(database, **keys))
            enforced, refused = await hops(tmp_path, of(database, **keys, posture="enforce"))
        finally:
            await admin.execute(f"REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role}; DROP ROLE {role}")

    assert (code, found[-1]["name"], found[-1]["state"]) == (0, "rights", "warn")
    for risk in RISKS.values():
        assert risk in found[-1]["detail"]
    assert "check --sql" in found[-1]["hint"]
    assert (enforced, refused[-1]["state"]) == (1, "failed")


async def test_rights_a_superuser_is_named(tmp_path: Path, databases: Pair) -> None:
    database = databases.first
    keys = {"user": database.superuser, "password": f"literal:{database.superuser_password}"}
    code, found = await hops(tmp_path, of(database, **keys))
    assert code == 0
    assert "is a superuser" in found[-1]["detail"]


async def test_the_sql_that_is_printed_makes_a_role_that_can_only_read(tmp_path: Path, own_databases: Pair) -> None:
    database = own_databases.first
    # Its own name: roles belong to the server, and other tests have theirs.
    role = f"made_{database.name}"
    printed = await check(tmp_path, of(database), "--sql")
    script = printed.out[printed.out.index("-- A role") :].replace("gateway_reader", role)
    keys = {"user": role, "password": "literal:a secret"}
    async with database.connection() as admin:
        try:
            await admin.execute(script)
            await admin.execute(f"ALTER ROLE {role} PASSWORD 'a secret'")
            await admin.execute("CREATE TABLE public.made_later AS SELECT 1 AS one")
            code, found = await hops(tmp_path, of(database, **keys))
            read = await as_role(database, role, "SELECT count(*) FROM public.orders, public.made_later")
            refusals = [
                await as_role(database, role, statement)
                for statement in (
                    "UPDATE public.orders SET id = id",
                    "CREATE TABLE public.mine (a int)",
                    "CREATE TEMPORARY TABLE mine (a int)",
                )
            ]
        finally:
            await admin.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")

    assert (code, found[-1]["state"], found[-1]["detail"]) == (0, "ok", f"{role} can only read")
    assert isinstance(read, int)
    assert read > 0
    assert {type(refusal) for refusal in refusals} == {asyncpg.InsufficientPrivilegeError}


async def as_role(database: Database, role: str, statement: str) -> Any:
    """Return what a statement answers, or its error, past the gateway and in a session that may write."""
    connection = await asyncpg.connect(
        database.server.dsn(database.name, user=role, password="a secret"),
        ssl=False,
        server_settings={"default_transaction_read_only": "off"},
    )
    try:
        return await connection.fetchval(statement)
    except asyncpg.PostgresError as error:
        return error
    finally:
        await connection.close()


@contextmanager
def listening(answer: bytes | None) -> Iterator[int]:
    """Take connections and give each this answer, or none, and hold them open; yields the port."""
    with socket.create_server(("127.0.0.1", 0)) as server, ExitStack() as held:

        def serve() -> None:
            while True:
                try:
                    taken = held.enter_context(server.accept()[0])
                    if answer is not None:
                        taken.recv(8)
                        taken.sendall(answer)
                except OSError:
                    return

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(5)


@contextmanager
def full_backlog() -> Iterator[int]:
    """Yield a port whose queue of new connections is full: the next one waits for ever."""
    with socket.socket() as server, ExitStack() as held:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            waiting = held.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        yield server.getsockname()[1]
