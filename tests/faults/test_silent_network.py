"""A network that drops every packet: calls end in time, what was lost is read again, and nothing stays behind.

The scenarios run in a network of their own (`silent_network`), all of them once and side by side.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.faults import silent_network
from tests.support.namespace import needs_namespaces, run_inside

pytestmark = pytest.mark.anyio

# What a call may take beyond its time, and how soon one is answered when packets flow again.
GRACE_S = 2.0
RECOVERED_S = 3.0
# Keepalive and TCP_USER_TIMEOUT of the gateway's sockets, and of the server's (gateway/session.py).
CLIENT_NOTICES_S = 15.0
SERVER_NOTICES_S = 25.0

Met = dict[str, Any]


@pytest.fixture(scope="module")
async def met() -> dict[str, Met]:
    needs_namespaces()
    found: dict[str, Met] = await run_inside(silent_network.__name__, within_s=100.0)
    return found


async def test_a_statement_under_which_the_link_falls_silent_is_given_up_in_time(met: dict[str, Met]) -> None:
    found = met["given_up_in_flight"]

    assert (found["call"]["code"], found["call"]["waited_for"]) == ("timeout", "statement")
    assert found["call"]["seconds"] < 4.0 + GRACE_S
    assert found["recovered_s"] < RECOVERED_S


async def test_a_statement_whose_caller_was_answered_does_not_run_on(met: dict[str, Met]) -> None:
    assert met["given_up_in_flight"]["active_gone_s"] is not None


@pytest.mark.parametrize("scenario", ["noticed_in_flight", "noticed_on_sending"])
async def test_the_kernel_notices_a_dead_link_and_the_read_is_repeated(met: dict[str, Met], scenario: str) -> None:
    found = met[scenario]

    assert found["noticed_s"] is not None
    assert found["noticed_s"] < CLIENT_NOTICES_S
    assert (found["call"]["code"], found["call"]["retries"] >= 1) == ("ok", True)
    assert found["answered_after_s"] < RECOVERED_S


async def test_an_idle_connection_that_died_in_a_silence_is_not_handed_out(met: dict[str, Met]) -> None:
    found = met["idle_for_long"]

    assert found["opened"] == silent_network.POOL_MAX
    assert found["noticed_s"] is not None
    assert found["noticed_s"] < CLIENT_NOTICES_S
    assert [(call["code"], call["retries"]) for call in found["after"]] == [("ok", 0)] * silent_network.POOL_MAX
    assert max(call["seconds"] for call in found["after"]) < RECOVERED_S


async def test_an_idle_connection_that_outlived_a_silence_is_used_again(met: dict[str, Met]) -> None:
    found = met["idle_for_a_moment"]

    assert [(call["code"], call["retries"]) for call in found["after"]] == [("ok", 0)] * silent_network.POOL_MAX
    assert max(call["seconds"] for call in found["after"]) < RECOVERED_S


async def test_a_dial_into_a_silence_is_given_up_in_time(met: dict[str, Met]) -> None:
    found = met["dialled_too_long"]

    assert (found["call"]["code"], found["call"]["waited_for"]) == ("unavailable", "connect")
    assert found["call"]["seconds"] < 5.0 + GRACE_S
    assert found["recovered_s"] < RECOVERED_S


async def test_a_silence_that_ends_in_mid_try_of_the_breaker_is_noticed_by_the_next(met: dict[str, Met]) -> None:
    assert met["tried_now_and_then"]["recovered_s"] < RECOVERED_S


async def test_a_dial_is_answered_soon_after_the_silence_ends(met: dict[str, Met]) -> None:
    found = met["dialled_for_a_while"]

    assert found["call"]["code"] == "ok"
    assert found["answered_after_s"] < RECOVERED_S


@pytest.mark.parametrize(
    "scenario",
    ["given_up_in_flight", "noticed_in_flight", "noticed_on_sending", "idle_for_long", "dialled_too_long"],
)
async def test_the_server_gives_up_the_sessions_that_a_silence_cut_off(met: dict[str, Met], scenario: str) -> None:
    gone_s = met[scenario]["backends_gone_s"]

    assert gone_s is not None
    assert gone_s < SERVER_NOTICES_S


async def test_calls_that_wait_for_a_name_server_say_so_and_others_are_answered_as_ever(met: dict[str, Met]) -> None:
    found = met["looked_up"]

    assert found["seconds"] < 3.0 + GRACE_S
    # Two dial at once, the third has a place in the pool and waits for its turn, and the others wait for a place.
    assert sorted((call["code"], call["waited_for"]) for call in found["calls"]) == [
        *[("busy", "pool")] * 3,
        ("unavailable", "name look-up"),
        ("unavailable", "name look-up"),
        ("unavailable", "pool"),
    ]
    assert all("the name look-up" in call["message"] for call in found["calls"]), found["calls"]
    assert found["answers"] > 10
    assert found["longest_s"] < 1.0
