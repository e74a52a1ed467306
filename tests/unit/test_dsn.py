from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dsn import DsnError, parse_dsn, parse_endpoint, shown_dsn
from tests.support.configuration import faults

SECRET = "hunter22SECRET"


def said(url: str) -> str:
    """Return what parsing says of a URL with faults, and nothing of one without."""
    try:
        parse_dsn(url)
    except DsnError as error:
        return "; ".join(error.faults) or "nothing at all"
    return ""


@pytest.mark.parametrize(
    ("url", "hosts", "user", "password", "database"),
    [
        ("postgresql://u:p@h:77/d", (("h", 77),), "u", "p", "d"),
        ("postgres://u%40srv:p%40s%2F%3A%25@h", (("h", None),), "u@srv", "p@s/:%", None),
        ("postgresql://u:@h", (("h", None),), "u", "", None),
        ("postgresql:///d", (), None, None, "d"),
        ("postgresql://u@a:1,b,:3/d", (("a", 1), ("b", None), ("localhost", 3)), "u", None, "d"),
        ("postgresql://u@[::1]:5433/d", (("::1", 5433),), "u", None, "d"),
        ("postgresql://u@%2Frun%2Fpostgresql:5433/d", (("/run/postgresql", 5433),), "u", None, "d"),
        ("postgresql://u:a:b@h/%C3%A4", (("h", None),), "u", "a:b", "ä"),
    ],
)
def test_a_url_is_taken_apart(
    url: str, hosts: tuple[Any, ...], user: str | None, password: str | None, database: str | None
) -> None:
    dsn = parse_dsn(url)
    assert (dsn.hosts, dsn.user, dsn.password, dsn.database) == (hosts, user, password, database)


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("host=h dbname=d password=hunter22", "must begin with postgresql://"),
        ("postgres://u:hunter22@x@h/d", "more than one @ before the host: in a user or password, write %40 for @"),
        ("postgres://u@srv:hunter22@h/d", "more than one @"),
        ("postgres://u:hunt/er22@h/d", "has an @ after the host"),
        ("postgres://u:hunt?er22@h/d", "has an @ after the host"),
        ("postgres://u:hunt#er22@h/d", "has an @ after the host"),
        ("postgres://u@h/d#hunter22", "has a # in it"),
        ("postgres://u:hunter22", "a port must be a whole number"),
        ("postgres://u:hunter22?x", "a port must be a whole number"),
        ("postgres://u:hunter22%zz@h", "the password has a % that begins no escape"),
        ("postgres://u:hunter22%ff@h", "the password is not UTF-8"),
        ("postgres://u:hunter22%00@h", "the password has a zero byte"),
        ("postgres://u:hunter22@::1/d", "an IPv6 address is written [address]:port"),
        ("postgres://u:hunter22@[::1/d", "an IPv6 address is written [address]:port"),
        ("postgres://u:hunter22@a,,b", "names no host"),
        ("postgres://u:hunter22@a%2Fb", "a folder of a Unix socket begins with /"),
        ("postgres://u:hunter22@h?sslmod=x", "says 'sslmod', which has no meaning here: did you mean sslmode?"),
        ("postgres://u:hunter22@h?=x", "a key that is not known"),
        ("postgres://u:hunter22@h?sslmode", "says sslmode without a value"),
        ("postgres://u:hunter22@h?sslmode=a&sslmode=b", "says sslmode twice"),
        ("postgres://u:x@h?password=hunter22", "says 'password', which has no meaning here"),
    ],
)
def test_a_url_that_could_be_misread_is_a_fault_without_its_password(tmp_path: Path, url: str, fault: str) -> None:
    with pytest.raises(DsnError) as caught:
        parse_dsn(url)
    assert fault in str(caught.value)
    for secret in ("hunter22", "er22"):
        assert secret not in str(caught.value)
        assert secret not in shown_dsn(url).partition("#")[0]
        assert secret not in "".join(faults(tmp_path, None, {"DATABASE_URL": url})).replace("d#hunter22", "")


def test_all_faults_of_a_url_are_reported_together() -> None:
    with pytest.raises(DsnError) as caught:
        parse_dsn("postgres://u@h:x/d%zz?a=1")
    assert len(caught.value.faults) == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [("h", ("h", None)), ("h:1", ("h", 1)), ("[::1]", ("::1", None)), ("[::1]:2", ("::1", 2)), ("/run:3", ("/run", 3))],
)
def test_an_endpoint_is_read(text: str, expected: tuple[str, int | None]) -> None:
    assert parse_endpoint(text) == expected


@given(st.text(max_size=60).map(lambda text: f"postgresql://{text}"))
def test_any_url_is_read_or_has_faults(url: str) -> None:
    shown_dsn(url)
    assert said(url) != "nothing at all"


@given(st.text(alphabet="@:/?#%[],&= ", max_size=6), st.text(alphabet="@:/?#%[],&= ", max_size=6))
def test_no_place_for_a_password_before_the_host_shows_it(before: str, after: str) -> None:
    url = f"postgresql://bob:{before}{SECRET}{after}@h/db"
    assert SECRET not in shown_dsn(url)
    assert SECRET not in said(url)
