"""What a drill makes of a profile and of its phases before anything is broken."""

from __future__ import annotations

from types import MappingProxyType

import pytest

from gateway.config import Config
from gateway.drill import Plan, drilled_profile, new_report, outlasting_s
from gateway.drill_load import ALLOWED_FUNCTIONS
from gateway.errors import ConfigError
from gateway.profiles import Endpoint, Limits, Profile


def plan(*hosts: str, call_s: float | None = None) -> Plan:
    profile = Profile(
        name="shop",
        endpoints=tuple(Endpoint(host=host) for host in hosts),
        database="shop",
        user="reader",
        password="literal:swordfish",
        limits=Limits(call_s=30, statement_s=20),
        allow_functions=("own",),
    )
    config = Config(profiles=MappingProxyType({"shop": profile}), default="shop")
    return Plan(config=config, profile="shop", scenarios=(), call_s=call_s)


def test_the_profile_is_drilled_with_its_own_limits() -> None:
    drilled = drilled_profile(plan("db"))
    assert drilled.limits == Limits(call_s=30, statement_s=20)
    assert drilled.allow_functions == ("own", *ALLOWED_FUNCTIONS)


def test_a_shorter_time_for_calls_bounds_the_statement_too() -> None:
    limits = drilled_profile(plan("db", call_s=8)).limits
    assert (limits.call_s, limits.statement_s) == (8, 8)


def test_a_unix_socket_cannot_be_drilled() -> None:
    with pytest.raises(ConfigError, match="Unix socket"):
        drilled_profile(plan("db", "/run/postgresql"))


def test_a_report_names_the_database_and_no_secret() -> None:
    report = new_report(plan("db"))
    assert report.address == "db:5432/shop"
    assert "swordfish" not in str(report.to_dict())


@pytest.mark.parametrize(
    ("seconds", "call_s", "expected"), [(5, 10, 13), (13, 10, 13), (14, 10, 23), (20, 10, 23), (5, 30, 33), (1, 2, 3)]
)
def test_a_black_hole_outlasts_whole_calls_and_leaves_the_next_ones_time(
    seconds: float, call_s: float, expected: float
) -> None:
    assert outlasting_s(seconds, call_s) == expected
