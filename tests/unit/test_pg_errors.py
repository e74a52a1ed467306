"""The seam's rows that no server says on demand: what the driver and the socket raise."""

from __future__ import annotations

import socket
from typing import Any

import asyncpg
import pytest

from gateway.errors import (
    BadQuery,
    CallTimeout,
    ConfigError,
    GatewayError,
    InternalError,
    InvalidArguments,
    PermissionDenied,
    TlsFailed,
    Unavailable,
)
from gateway.pg_errors import from_dial, from_server, from_statement, is_unfit


def said(sqlstate: str, message: str = "what the server said", **fields: Any) -> asyncpg.PostgresError:
    """Return the error that the driver makes of the server's words."""
    error = asyncpg.PostgresError.new({"C": sqlstate, "M": message, **fields})
    assert isinstance(error, asyncpg.PostgresError)
    return error


@pytest.mark.parametrize(
    ("sqlstate", "code", "transient"),
    [
        ("25006", "unsafe_sql", False),
        ("57014", "timeout", False),
        ("55P03", "timeout", False),
        ("28P01", "auth_failed", False),
        ("28000", "auth_failed", False),
        ("3D000", "config_error", False),
        ("57P01", "unavailable", True),
        ("57P02", "unavailable", True),
        ("57P03", "unavailable", True),
        ("08006", "unavailable", True),
        ("08P01", "unavailable", True),
        ("26000", "unavailable", True),
        ("53300", "unavailable", True),
        ("53200", "unavailable", True),
        ("53400", "too_large", False),
        ("58030", "unavailable", True),
        ("40001", "unavailable", True),
        ("40P01", "unavailable", True),
        ("42501", "permission_denied", False),
        ("42P01", "not_found", False),
        ("42703", "not_found", False),
        ("3F000", "not_found", False),
        ("54001", "too_large", False),
        ("54011", "too_large", False),
        ("22021", "bad_query", False),
        ("22P02", "bad_query", False),
        ("22012", "bad_query", False),
        ("42601", "bad_query", False),
        ("0A000", "bad_query", False),
        ("XX000", "bad_query", False),
    ],
)
def test_a_code_of_the_server_becomes_ours(sqlstate: str, code: str, *, transient: bool) -> None:
    error = from_server(said(sqlstate), profile="p")
    assert (error.code, error.transient, error.sqlstate, error.profile) == (code, transient, sqlstate, "p")


def test_the_servers_own_hint_wins_and_its_detail_is_kept() -> None:
    error = from_server(said("42883", H="Add a cast.", D="No operator."), profile="p")
    assert (error.hint, error.message) == ("Add a cast.", "what the server said (No operator.)")


@pytest.mark.parametrize(("offset", "position"), [(0, 7), (5, 12), (-7, None), (None, None)])
def test_the_place_is_counted_in_the_callers_text(offset: int | None, position: int | None) -> None:
    assert from_server(said("42601", P="7"), profile="p", offset=offset).position == position


def test_long_messages_are_cut_between_characters() -> None:
    message = from_server(said("22P02", "é" * 5000), profile="p").message
    assert len(message.encode()) <= 2051
    assert message.endswith("…")


def killed(cause: BaseException | None) -> asyncpg.PostgresError:
    error = asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")
    error.__cause__ = cause
    return error


def test_a_killed_backend_is_told_with_the_servers_words() -> None:
    error = from_statement(killed(said("57P01", "terminating connection")), profile="p")
    assert (type(error), error.sqlstate, error.message) == (Unavailable, "57P01", "terminating connection")


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (killed(None), Unavailable),
        (killed(ConnectionResetError()), Unavailable),
        (ConnectionResetError(), Unavailable),
        (asyncpg.InterfaceError("connection is closed"), Unavailable),
        (asyncpg.InterfaceError("the server expects 1 argument for this query, 2 were passed"), InvalidArguments),
        (asyncpg.DataError("invalid input for query argument $1"), InvalidArguments),
        (TimeoutError(), CallTimeout),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), BadQuery),
        (KeyError("x"), InternalError),
        (PermissionDenied("ours already"), PermissionDenied),
    ],
    ids=repr,
)
def test_what_a_statement_raises_becomes_ours(cause: BaseException, kind: type[GatewayError]) -> None:
    assert type(from_statement(cause, profile="p")) is kind


@pytest.mark.parametrize(
    ("cause", "kind", "message"),
    [
        (ConnectionRefusedError(111, "secret host"), Unavailable, "refused"),
        (socket.gaierror(-2, "unknown"), Unavailable, "cannot be resolved"),
        (TimeoutError(), Unavailable, "in time"),
        (ConnectionResetError(), Unavailable, "closed the connection"),
        (OSError(113, "no route"), Unavailable, "closed the connection"),
        (killed(None), Unavailable, "closed the connection"),
        (ConnectionError("PostgreSQL server at h:1 rejected SSL upgrade"), TlsFailed, "does not offer TLS"),
        (said("28P01", "password authentication failed"), GatewayError, "password authentication failed"),
        (said("3D000", "no such database"), ConfigError, "no such database"),
        (KeyError("secret"), InternalError, "KeyError"),
    ],
    ids=repr,
)
def test_what_a_dial_raises_becomes_ours(cause: BaseException, kind: type[GatewayError], message: str) -> None:
    error = from_dial(cause, profile="p", endpoint="db.example:5432")
    assert isinstance(error, kind)
    assert message in error.message
    assert "secret" not in error.message
    assert error.profile in ("p", None)


@pytest.mark.parametrize(
    ("words", "code", "repeat"),
    [
        ("unsupported startup parameter: statement_timeout", "config_error", "never"),
        ("SASL authentication failed", "auth_failed", "never"),
        ("password authentication failed", "auth_failed", "never"),
        ("no such user: x", "auth_failed", "never"),
        ("no such database: x", "config_error", "never"),
        ('database "x" does not exist', "config_error", "never"),
        ('database "x" is disabled', "unavailable", "never"),
        ("no more connections allowed (max_client_conn)", "unavailable", "always"),
        ("query_wait_timeout", "unavailable", "always"),
        ("server login has been failing, try again later (server_login_retry)", "unavailable", "always"),
        ("server login failed: FATAL the database system is starting up", "unavailable", "always"),
        ("pgbouncer cannot connect to server", "unavailable", "always"),
        ("client_login_timeout (server down)", "unavailable", "always"),
        ("client_idle_timeout", "unavailable", "always"),
        ("invalid server parameter", "unavailable", "always"),
        ("server conn crashed?", "unavailable", "once"),
        ("query timeout", "timeout", "never"),
        ("invalid frontend message type 1", "unavailable", "never"),
    ],
)
def test_a_poolers_words_decide_what_its_one_code_means(words: str, code: str, repeat: str) -> None:
    error = from_server(said("08P01", words), profile="p")
    assert (error.code, error.repeat, error.sqlstate) == (code, repeat, "08P01")
    assert words in error.message


@pytest.mark.parametrize("words", ["server conn crashed?", "query_wait_timeout"])
def test_what_a_pooler_said_before_it_hung_up_is_told(words: str) -> None:
    error = from_statement(killed(said("08P01", words)), profile="p")
    assert error.message == f"the pooler says: {words}"


def test_words_that_nobody_knows_are_worth_one_more_try_when_they_were_the_last() -> None:
    error = from_statement(killed(said("08P01", "broken server packet")), profile="p")
    assert (type(error), error.repeat) == (Unavailable, "once")


@pytest.mark.parametrize("sqlstate", ["08000", "08001", "08003", "08004", "08006"])
def test_a_connection_that_the_server_could_not_open_itself_is_not_ours(sqlstate: str) -> None:
    error = from_statement(said(sqlstate, "could not connect", S="ERREUR", V="ERROR"), profile="p")
    assert (type(error), error.sqlstate, error.repeat) == (Unavailable, sqlstate, "never")
    assert error.message == "the database could not reach another server that it needs for this: could not connect"


@pytest.mark.parametrize(
    "fields",
    [{"S": "FATAL", "V": "FATAL"}, {"S": "FATAL"}, {"S": "ERROR"}, {}],
    ids=["the server", "a pooler", "an older pooler", "the driver"],
)
def test_our_own_connection_that_broke_is_tried_again(fields: dict[str, str]) -> None:
    assert from_statement(said("08006", "what was said", **fields), profile="p").repeat == "always"


def test_a_session_without_its_prepared_statements_is_unfit_and_the_drivers_advice_is_not_ours() -> None:
    raised = said("26000", "prepared statement x does not exist", S="ERROR", V="ERROR")
    error = from_statement(raised, profile="p")
    assert (is_unfit(raised), is_unfit(error), error.repeat) == (True, True, "once")
    assert "statement_cache_size" not in (error.hint or "")
    assert not is_unfit(said("42P01"))
    assert not is_unfit(TimeoutError())
