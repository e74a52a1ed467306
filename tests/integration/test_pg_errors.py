"""Every row of the seam provoked for real: what a caller is told about each trouble, and that the next call works.

Long because each row of the seam is a table row here, too: statement, dial or certificate.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import trustme

from gateway.app import Gateway
from gateway.embedded import EmbeddedServer
from gateway.errors import ConfigError, GatewayError
from gateway.profiles import Endpoint, Limits, Profile, RetrySettings, Tls
from tests.support.gateway import call, config_of, gateway_over, profile_of
from tests.support.polling import until
from tests.support.postgres import Database, Pair, Servers, certificate, chosen_binaries, quick_folder

pytestmark = pytest.mark.anyio

ARRANGED = """
CREATE TABLE written (a int); CREATE TABLE secret (a int);
CREATE FUNCTION writes() RETURNS int LANGUAGE sql VOLATILE SECURITY DEFINER AS
  'INSERT INTO written VALUES (1) RETURNING a';
CREATE VIEW looks_harmless AS SELECT writes() AS a;
CREATE TABLE "Odd Näme" ("Some Cölumn" int);
GRANT SELECT ON ALL TABLES IN SCHEMA public TO gateway_reader; REVOKE ALL ON secret FROM gateway_reader;
"""


@pytest.fixture(scope="module")
async def pair(servers: Servers) -> AsyncIterator[Pair]:
    async with servers.copy() as copies:
        async with copies.first.connection() as connection:
            await connection.execute(ARRANGED)
        yield copies


@pytest.fixture(scope="module")
async def gateway(pair: Pair) -> AsyncIterator[Gateway]:
    async with gateway_over(pair) as running:
        yield running


async def error_of(gateway: Gateway, query: str, **arguments: Any) -> GatewayError:
    """Return the error of a query, having seen that both profiles still work."""
    with pytest.raises(GatewayError) as caught:
        await call(gateway, "execute_query", query=query, **arguments)
    for profile in ("first", "second"):
        assert (await call(gateway, "execute_query", query="SELECT 1", profile=profile))["rows"] == [[1]]
    return caught.value


# Statement, code, SQLSTATE, a part of the message, a part of the hint, the place in the statement.
STATEMENTS: dict[str, tuple[str, str, str, str, str, int | None]] = {
    "a view that writes": (
        "SELECT * FROM looks_harmless",
        "unsafe_sql",
        "25006",
        "read-only transaction",
        "SELECT",
        None,
    ),
    "a table not to be read": ("SELECT * FROM secret", "permission_denied", "42501", "secret", "role may not", None),
    "a misspelt table": ("SELECT * FROM ordres", "not_found", "42P01", "ordres", "public.orders", 15),
    "a misspelt table with schema": (
        "SELECT * FROM public.custmers",
        "not_found",
        "42P01",
        "custmers",
        "public.customers",
        15,
    ),
    "a table unlike any": ("SELECT * FROM zqxjkvwpf", "not_found", "42P01", "zqxjkvwpf", "search_tables", 15),
    "a table in another schema": ("SELECT 1 FROM invoices", "not_found", "42P01", "invoices", "billing.invoices", 15),
    "a misspelt quoted table": ('SELECT 1 FROM "Odd Name"', "not_found", "42P01", "Odd Name", "Odd Näme", 15),
    "a misspelt column": ("SELECT custmer_id FROM orders", "not_found", "42703", "custmer_id", "customer_id", 8),
    "a misspelt column of an alias": ("SELECT o.totl FROM orders o", "not_found", "42703", "totl", "total", 8),
    "a column unlike any": ("SELECT zqxjkvwpf FROM orders", "not_found", "42703", "zqxjkvwpf", "describe_table", 8),
    "an unknown schema": ("SELECT NULL::nowhere.thing", "not_found", "3F000", "nowhere", "list_tables", 14),
    "a syntax error": ("SELECT 1 +", "bad_query", "", "syntax", "", None),
    "a literal of another type": (
        "SELECT * FROM orders WHERE id = 'x'",
        "bad_query",
        "22P02",
        "bigint",
        "read as the type",
        33,
    ),
    "a division by zero": ("SELECT 1/0", "bad_query", "22012", "division by zero", "", None),
    "a number out of range": ("SELECT 2147483647 + 1", "bad_query", "22003", "out of range", "", None),
    "a regular expression": ("SELECT 'x' ~ '('", "bad_query", "2201B", "regular expression", "", None),
    "an aggregate misused": ("SELECT id, count(*) FROM orders", "bad_query", "42803", "GROUP BY", "", 8),
    "an ambiguous column": ("SELECT id FROM orders, customers", "bad_query", "42702", "ambiguous", "", 8),
    "types that do not compare": ("SELECT 1 FROM orders WHERE id = note", "bad_query", "42883", "operator", "", None),
    "too many columns": (f"SELECT {', '.join(['1'] * 1700)}", "too_large", "54011", "1664", "fewer", None),
    "a feature that is missing": ("SELECT * FROM orders FOR UPDATE", "unsafe_sql", "", "", "", None),
}


@pytest.mark.parametrize("name", STATEMENTS)
async def test_a_failed_statement_is_told_as_what_it_is(gateway: Gateway, name: str) -> None:
    query, code, sqlstate, message, hint, position = STATEMENTS[name]

    error = await error_of(gateway, query)

    assert error.code == code, error.message
    assert message.lower() in error.message.lower()
    assert hint in str(error.hint)
    assert error.profile == "first"
    if sqlstate:
        assert error.sqlstate == sqlstate
    if position is not None:
        assert error.position == position


async def test_the_place_of_an_error_counts_what_stands_before_the_statement(gateway: Gateway) -> None:
    text = "-- é\n/* x */ SELECT ordres.id, 'é' FROM\n  ordres"

    error = await error_of(gateway, text)

    assert error.position == text.rindex("ordres") + 1


async def test_the_near_names_are_those_of_the_profile_that_was_asked(gateway: Gateway) -> None:
    error = await error_of(gateway, "SELECT 1 FROM loyalty_pionts", profile="second")
    assert "public.loyalty_points" in str(error.hint)
    assert "loyalty" not in str((await error_of(gateway, "SELECT 1 FROM loyalty_pionts", profile="first")).hint)


async def test_an_error_holds_no_more_of_the_servers_words_than_is_useful(gateway: Gateway) -> None:
    error = await error_of(gateway, f"SELECT '{'x' * 100_000}'::int")

    assert len(error.message.encode()) <= 2100


async def test_a_statement_beyond_its_time_is_a_timeout(pair: Pair) -> None:
    async with gateway_over(pair, limits=Limits(statement_s=0.3)) as gateway:
        error = await error_of(
            gateway, "SELECT count(*) FROM generate_series(1, 100000) a, generate_series(1, 100000) b"
        )

    assert (error.code, error.sqlstate, error.transient) == ("timeout", "57014", False)
    assert "Ask for less" in str(error.hint)


async def test_a_statement_that_waits_for_a_lock_says_so(pair: Pair) -> None:
    async with (
        gateway_over(pair, limits=Limits(statement_s=0.5)) as gateway,
        pair.first.connection() as connection,
        connection.transaction(),
    ):
        await connection.execute("LOCK TABLE written")
        error = await error_of(gateway, "SELECT * FROM written")

    assert (error.code, error.sqlstate) == ("timeout", "55P03")
    assert "locked" in str(error.hint)


async def test_the_loser_of_a_deadlock_is_tried_again(pair: Pair) -> None:
    async with pair.first.connection() as connection, gateway_over(pair) as gateway:
        async with connection.transaction():
            await connection.execute("LOCK TABLE customers")
            query = "SELECT 1 FROM written, customers LIMIT 1"
            reading = asyncio.create_task(call(gateway, "execute_query", query=query))
            assert await until(lambda: _is_waiting(pair.first))
            # Only the gateway's session finds the deadlock before its time.
            await connection.execute("SET LOCAL deadlock_timeout = '1min'")
            await connection.execute("LOCK TABLE written")
        assert (await reading)["rows"] == []


async def _is_waiting(database: Database) -> bool:
    async with database.connection() as connection:
        return bool(await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))


async def test_a_query_that_needs_too_much_room_is_too_large(pair: Pair) -> None:
    database = pair.first
    async with database.connection() as connection:
        await connection.execute(
            f"ALTER ROLE {database.reader} IN DATABASE {database.name} SET temp_file_limit = '1MB'"
        )
        try:
            async with gateway_over(pair) as gateway:
                error = await error_of(
                    gateway, "SELECT i, md5(i::text) FROM generate_series(1, 300000) AS i ORDER BY 2"
                )
        finally:
            await connection.execute(f"ALTER ROLE {database.reader} IN DATABASE {database.name} RESET temp_file_limit")

    assert (error.code, error.sqlstate) == ("too_large", "53400")


async def test_bytes_that_are_no_text_are_told_as_such(servers: Servers) -> None:
    async with servers.copy() as pair:
        async with pair.first.connection() as connection:
            await connection.execute(
                "CREATE DATABASE raw ENCODING SQL_ASCII LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
            )
        try:
            raw = replace(profile_of(pair.first, "first", as_superuser=True), database="raw")
            async with Gateway(config_of(raw, profile_of(pair.second, "second")), environ={}) as gateway:
                error = await error_of(gateway, "SELECT chr(255)")
        finally:
            async with pair.first.connection() as connection:
                await connection.execute("DROP DATABASE raw WITH (FORCE)")

    assert error.code == "bad_query"
    assert "bytea" in str(error.hint)


# What stands in the way of the dial. Each makes a profile out of one that works.


@contextlib.asynccontextmanager
async def listener(answer: bytes | None) -> AsyncIterator[int]:
    """Listen on loopback and answer the first words with `answer`, or with nothing for ever; give the port."""
    taken: set[asyncio.Task[Any] | None] = set()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.add(asyncio.current_task())
        with contextlib.suppress(ConnectionError):
            await reader.read(4096)
            if answer is None:
                await reader.read()
            else:
                writer.write(answer)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
    assert await until(lambda: all(task is None or task.done() for task in taken))


def error_packet(sqlstate: str) -> bytes:
    """Return what a server says when it turns a connection away (protocol 3.0, ErrorResponse)."""
    fields = b"".join((b"SFATAL\0", b"VFATAL\0", b"C" + sqlstate.encode() + b"\0", b"Mturned away\0", b"\0"))
    return b"E" + struct.pack("!i", len(fields) + 4) + fields


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


async def dial_error(databases: Pair, profile: Profile) -> GatewayError:
    """Return the error of the first call of `profile`, having seen that it was told in time and no secret with it."""
    profile = replace(profile, retry=RetrySettings(attempts=1))
    async with Gateway(config_of(profile, profile_of(databases.second, "second")), environ={}) as gateway:
        with pytest.raises(GatewayError) as caught:
            async with asyncio.timeout(profile.limits.call_s + 2):
                await call(gateway, "execute_query", query="SELECT 1")
        assert (await call(gateway, "execute_query", query="SELECT 1", profile="second"))["rows"] == [[1]]
        assert gateway.pool_stats()["first"].size == 0
    error = caught.value
    told = f"{error.to_dict()}"
    assert error.profile == "first"
    assert databases.first.reader_password not in told
    assert databases.first.superuser_password not in told
    return error


def to(profile: Profile, *, host: str = "127.0.0.1", port: int, **changes: Any) -> Profile:
    return replace(profile, endpoints=(Endpoint(host=host, port=port),), limits=Limits(call_s=1), **changes)


@dataclass(frozen=True)
class Trouble:
    """How a working profile is broken, and what is told then."""

    change: Callable[[Profile], Profile]
    code: str
    message: str
    hint: str
    sqlstate: str | None = None


TROUBLES = {
    "a wrong password": Trouble(
        lambda p: replace(p, password="literal:not this one"), "auth_failed", "password", "pg-gateway check", "28P01"
    ),
    "an unknown user": Trouble(
        lambda p: replace(p, user="nobody here"), "auth_failed", "nobody here", "pg_hba", "28P01"
    ),
    "an unknown database": Trouble(
        lambda p: replace(p, database="nowhere"), "config_error", "nowhere", "database that does not exist", "3D000"
    ),
    "a port that nobody listens on": Trouble(
        lambda p: to(p, port=unused_port()), "unavailable", "refused", "Is the server running"
    ),
    "an unknown host": Trouble(
        lambda p: to(p, host="no-such-host.invalid", port=5432), "unavailable", "cannot be resolved", "`host`"
    ),
    "TLS that the server does not offer": Trouble(
        lambda p: replace(p, tls=Tls(mode="require")), "tls_failed", "does not offer TLS", "Enable TLS"
    ),
    "a password from nowhere": Trouble(
        lambda p: replace(p, password="env:NOT_SET_ANYWHERE"), "config_error", "NOT_SET_ANYWHERE", ""
    ),
}


@pytest.mark.parametrize("name", TROUBLES)
async def test_a_dial_that_fails_names_the_reason_and_the_next_step(databases: Pair, name: str) -> None:
    trouble = TROUBLES[name]

    error = await dial_error(databases, trouble.change(profile_of(databases.first, "first")))

    assert error.code == trouble.code
    assert trouble.message in error.message
    assert trouble.hint in str(error.hint)
    assert error.sqlstate == trouble.sqlstate


async def test_a_role_that_may_not_log_in_is_an_authentication_failure(databases: Pair) -> None:
    async with databases.first.connection() as connection:
        await connection.execute("CREATE ROLE no_login PASSWORD 'x'")
        try:
            error = await dial_error(
                databases, profile_of(databases.first, "first", user="no_login", password="literal:x")
            )
        finally:
            await connection.execute("DROP ROLE no_login")

    assert (error.code, error.sqlstate) == ("auth_failed", "28000")


async def test_a_database_without_a_free_slot_is_unavailable_for_a_moment(own_databases: Pair) -> None:
    async with own_databases.first.connection() as connection:
        await connection.execute(f"ALTER DATABASE {own_databases.first.name} CONNECTION LIMIT 0")

    error = await dial_error(own_databases, profile_of(own_databases.first, "first", limits=Limits(call_s=2)))

    assert (error.code, error.sqlstate, error.transient) == ("unavailable", "53300", True)


async def test_a_server_that_never_answers_is_given_up_in_time(databases: Pair) -> None:
    async with listener(None) as port:
        error = await dial_error(databases, to(profile_of(databases.first, "first"), port=port))

    assert error.code in ("unavailable", "timeout")
    assert f"127.0.0.1:{port}" in error.message


async def test_a_server_that_never_answers_the_wish_for_tls_is_given_up_in_time(databases: Pair) -> None:
    async with listener(None) as port:
        error = await dial_error(databases, to(profile_of(databases.first, "first"), port=port, tls=Tls(mode="prefer")))

    assert error.code in ("unavailable", "timeout")


@pytest.mark.parametrize("mode", ["disable", "prefer", "require"])
@pytest.mark.parametrize(
    "answer",
    # Not zeros: a message shorter than its own length keeps the driver reading it for ever.
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n", b""],
    ids=["http", "ssh", "closes"],
)
async def test_a_listener_that_is_no_postgresql_server_is_told_as_such(
    databases: Pair, answer: bytes, mode: Any
) -> None:
    async with listener(answer) as port:
        error = await dial_error(databases, to(profile_of(databases.first, "first"), port=port, tls=Tls(mode=mode)))

    assert error.code in ("unavailable", "tls_failed")
    assert f"127.0.0.1:{port}" in error.message
    assert error.hint is not None


@pytest.mark.parametrize(
    ("sqlstate", "code", "transient"),
    [
        ("57P03", "unavailable", True),
        ("08P01", "unavailable", True),
        ("58030", "unavailable", True),
        ("53200", "unavailable", True),
        ("28000", "auth_failed", False),
        ("XX000", "bad_query", False),
    ],
)
async def test_a_server_that_turns_a_connection_away_is_told_by_its_code(
    databases: Pair, sqlstate: str, code: str, *, transient: bool
) -> None:
    async with listener(error_packet(sqlstate)) as port:
        error = await dial_error(databases, to(profile_of(databases.first, "first"), port=port))

    assert (error.code, error.sqlstate, error.transient) == (code, sqlstate, transient)


# Encryption


@dataclass(frozen=True)
class Encrypted:
    """A server with TLS, and the file of the authority that signed its certificate."""

    database: Database
    authority: Path


@pytest.fixture(scope="module")
async def encrypted(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Encrypted]:
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    tls = certificate(authority, folder / "server", "localhost")
    authority.cert_pem.write_to_path(folder / "authority.pem")
    try:
        async with EmbeddedServer.create(binaries=chosen_binaries(), inside=quick_folder(), tls=tls) as server:
            database = Database(server=server, name="postgres", reader_password=server.password, reader=server.user)
            yield Encrypted(database, folder / "authority.pem")
    except ConfigError as error:
        if "SSL is not supported by this build" not in error.message:
            raise
        pytest.skip("this build of PostgreSQL has no TLS")


def encrypted_profile(encrypted: Encrypted, host: str, tls: Tls) -> Profile:
    endpoints = (Endpoint(host=host, port=encrypted.database.port),)
    return profile_of(encrypted.database, "first", endpoints=endpoints, tls=tls)


@pytest.mark.parametrize("mode", ["prefer", "require", "verify-ca", "verify-full"])
async def test_a_certificate_that_is_trusted_lets_every_mode_through(
    encrypted: Encrypted, databases: Pair, mode: Any
) -> None:
    root = str(encrypted.authority) if mode.startswith("verify") else None
    first = encrypted_profile(encrypted, "localhost", Tls(mode=mode, root_cert=root))
    async with Gateway(config_of(first, profile_of(databases.second, "second")), environ={}) as gateway:
        answer = await call(gateway, "execute_query", query="SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")

    assert answer["rows"] == [[True]]


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
async def test_a_certificate_of_a_stranger_is_not_trusted(
    encrypted: Encrypted, databases: Pair, tmp_path: Path, mode: Any
) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "stranger.pem")
    tls = Tls(mode=mode, root_cert=str(tmp_path / "stranger.pem"))

    error = await dial_error(Pair(encrypted.database, databases.second), encrypted_profile(encrypted, "localhost", tls))

    assert (error.code, error.transient) == ("tls_failed", False)
    assert "not trusted" in error.message
    assert "ssl_root_cert" in str(error.hint)


async def test_a_certificate_for_another_name_is_refused_by_verify_full_alone(
    encrypted: Encrypted, databases: Pair
) -> None:
    root = str(encrypted.authority)
    pair = Pair(encrypted.database, databases.second)

    error = await dial_error(pair, encrypted_profile(encrypted, "127.0.0.1", Tls(mode="verify-full", root_cert=root)))

    assert error.code == "tls_failed"
    assert "127.0.0.1" in error.message
    assert "host name" in str(error.hint)
    by_address = encrypted_profile(encrypted, "127.0.0.1", Tls(mode="verify-ca", root_cert=root))
    async with Gateway(config_of(by_address, profile_of(databases.second, "second")), environ={}) as gateway:
        assert (await call(gateway, "execute_query", query="SELECT 1"))["rows"] == [[1]]


async def test_a_file_of_roots_that_is_missing_is_a_fault_of_the_configuration(
    encrypted: Encrypted, databases: Pair, tmp_path: Path
) -> None:
    tls = Tls(mode="verify-full", root_cert=str(tmp_path / "missing.pem"))

    error = await dial_error(Pair(encrypted.database, databases.second), encrypted_profile(encrypted, "localhost", tls))

    assert error.code == "config_error"
    assert "missing.pem" in error.message
