from __future__ import annotations

import io
import logging
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.redact import RedactingFilter, redact

TOKEN = "eyJhbGciOiJub25lIn0.eyJhdWQiOiJvc3NyZGJtcyJ9.c2lnbmF0dXJl"

BLANKED = [
    ("postgresql://bob:hunter22@h:5432/db", "postgresql://bob:***@h:5432/db"),
    ("postgres://bob:p@ss/w?rd@h/db", "postgres://bob:***@h/db"),
    ("at https://me:hunter22@h/path now", "at https://me:***@h/path now"),
    ("host=h password=hunter22 dbname=d", "host=h password=*** dbname=d"),
    ("password='hunter 22' x", "password=*** x"),
    ('{"password": "hunter22", "a": 1}', '{"password": ***, "a": 1}'),
    ("LOCAL_PASSWORD=hunter22", "LOCAL_PASSWORD=***"),
    ("DefaultEndpoints;AccountKey=abc+/==;X=1", "DefaultEndpoints;AccountKey=***;X=1"),
    ("client_secret=hunter22&grant=x", "client_secret=***&grant=x"),
    ("Authorization: Bearer hunter", "Authorization: Bearer ***"),
    ("sent bearer abc.def-123456", "sent bearer ***"),
    (f"token {TOKEN} expired", "token *** expired"),
]

LEFT_ALONE = [
    'password authentication failed for user "bob"',
    "[profiles.local] password: is missing",
    'write password = "env:LOCAL_PASSWORD" or password = "file:secret"',
    "cannot reach postgresql://bob@h:5432/db",
    "http://127.0.0.1:8080/mcp answered 200",
    "HTTP on this address needs a bearer token",
    "bearer authentication is off",
    "SELECT 'delete', now() -- drop; x@y",
]


@pytest.mark.parametrize(("text", "expected"), BLANKED, ids=[text for text, _ in BLANKED])
def test_what_looks_like_a_secret_is_blanked(text: str, expected: str) -> None:
    assert redact(text) == expected


@pytest.mark.parametrize("text", LEFT_ALONE)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


def test_known_secrets_are_blanked_also_as_a_url_writes_them() -> None:
    assert redact("a p@ss word, p%40ss%20word", ["p@ss word"]) == "a ***, ***"


def test_known_secrets_of_three_characters_are_left() -> None:
    assert redact("the cat", ["the", ""]) == "the cat"


@given(st.text(), st.text(alphabet="abcXYZ0189!$%/@:", min_size=6, max_size=40))
def test_a_known_secret_never_survives(text: str, secret: str) -> None:
    assert secret not in redact(f"{text}{secret}{text}", [secret])


@given(st.from_regex(r"[a-z0-9]{8,20}", fullmatch=True).map(lambda word: f"S3cr{word}"))
def test_a_password_of_a_url_never_survives(secret: str) -> None:
    assert secret not in redact(f"could not open postgresql://bob:{secret}@h/db?x=1")


@pytest.mark.parametrize(
    "text",
    [
        "://a:" * 20_000,
        "password" * 12_000,
        "-eyJaaaaa" * 10_000,
        "bearer " * 14_000,
        "a" * 100_000,
        'password="' * 9000,
    ],
)
def test_a_long_text_is_searched_in_time_that_grows_with_its_length(text: str) -> None:
    started = time.perf_counter()
    redact(text)
    assert time.perf_counter() - started < 2


def logged(*, secrets: tuple[str, ...] = ()) -> tuple[logging.Logger, io.StringIO]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(RedactingFilter(secrets))
    logger = logging.Logger("test")  # noqa: LOG001 - a logger of its own that no other test sees
    logger.addHandler(handler)
    return logger, stream


def test_the_filter_blanks_message_and_arguments() -> None:
    logger, stream = logged(secrets=("swordfish",))
    logger.warning("dial %s with %s", "postgres://u:hunter22@h/d", "swordfish")
    assert stream.getvalue() == "dial postgres://u:***@h/d with ***\n"


def test_the_filter_blanks_the_traceback_and_the_stack() -> None:
    logger, stream = logged()
    try:
        int("password=hunter22")
    except ValueError:
        logger.exception("failed", stack_info=True)
    assert "hunter22" not in stream.getvalue()
    assert "base 10: 'password=***" in stream.getvalue()


def test_the_filter_keeps_a_line_whose_arguments_do_not_fit() -> None:
    logger, stream = logged()
    logger.warning("password=hunter22 %d", "x")
    assert stream.getvalue() == "password=*** %d (with arguments that do not fit)\n"


def test_the_filter_takes_a_traceback_that_was_rendered_before() -> None:
    record = logging.LogRecord("x", logging.INFO, __file__, 1, "m", (), None)
    record.exc_text = "secret=hunter22"
    record.stack_info = None
    assert RedactingFilter().filter(record)
    assert record.exc_text == "secret=***"
