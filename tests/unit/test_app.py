"""What the gateway decides before it needs a database: which profile, and what is refused at once."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn

import pytest

from gateway.app import Gateway
from gateway.errors import GatewayError, InternalError, InvalidArguments, UnknownProfile, UnsafeSql
from gateway.observe import CallRecord, Record
from gateway.profiles import Endpoint, Profile
from gateway.reading import Reading
from tests.support.gateway import config_of

pytestmark = pytest.mark.anyio

# No socket is opened to it: every test ends before.
PROFILES = [
    Profile(name=name, endpoints=(Endpoint(host="nowhere.invalid"),), database="shop", user="reader")
    for name in ("local", "azure_dev", "azure_prod")
]


async def unreachable(_reading: Reading) -> NoReturn:
    raise AssertionError("no connection was to be asked for")


@pytest.fixture
def told() -> list[Record]:
    return []


@pytest.fixture
async def gateway(told: list[Record]) -> AsyncIterator[Gateway]:
    async with Gateway(config_of(*PROFILES), environ={}, observers=[told.append]) as gateway:
        yield gateway


async def refused(gateway: Gateway, profile: str | None = None, *, query: str | None = None) -> GatewayError:
    """Return the error of a read that must not get as far as a connection."""
    with pytest.raises(GatewayError) as caught:
        await gateway.read("execute_query", profile, unreachable, query=query)
    return caught.value


async def test_creating_makes_no_pool(gateway: Gateway) -> None:
    assert gateway.pool_stats() == {}


@pytest.mark.parametrize(
    ("name", "found"), [(None, "local"), ("azure_dev", "azure_dev"), (" azure_prod ", "azure_prod")]
)
async def test_a_profile_is_the_one_that_is_named_or_the_active_one(
    gateway: Gateway, name: str | None, found: str
) -> None:
    assert gateway.resolve(name).name == found


@pytest.mark.parametrize("name", ["azure_prd", "nothing like it", "", "LOCAL"])
async def test_an_unknown_profile_names_all_there_are_the_nearest_first(gateway: Gateway, name: str) -> None:
    error = await refused(gateway, name)

    assert isinstance(error, UnknownProfile)
    assert repr(name) in error.message
    assert {profile.name for profile in PROFILES} <= set((error.hint or "").replace(".", "").replace(",", "").split())
    if name == "azure_prd":
        assert (error.hint or "").startswith("Use one of: azure_prod")


@pytest.mark.parametrize("name", ["*", "local,azure_dev", "local, nosuch"])
async def test_several_profiles_at_once_are_refused(gateway: Gateway, name: str) -> None:
    error = await refused(gateway, name)
    assert isinstance(error, InvalidArguments)
    assert "one profile per call" in error.message


@pytest.mark.parametrize("tail", ["", f" -- {'x' * 10_000}"], ids=["short", "long"])
async def test_a_write_is_refused_without_the_database(gateway: Gateway, told: list[Record], tail: str) -> None:
    error = await refused(gateway, query=f"DELETE FROM orders{tail}")

    assert isinstance(error, UnsafeSql)
    assert error.profile == "local"
    assert gateway.pool_stats() == {}
    assert [type(record) for record in told] == [CallRecord]


@pytest.mark.parametrize(
    ("profile", "query", "outcome"),
    [
        ("azure_prd", None, "unknown_profile"),
        ("*", None, "invalid_arguments"),
        ("azure_dev", "DROP TABLE x", "unsafe_sql"),
    ],
)
async def test_a_refusal_is_observed_like_a_call(
    gateway: Gateway, told: list[Record], profile: str, query: str | None, outcome: str
) -> None:
    await refused(gateway, profile, query=query)

    (record,) = told
    assert isinstance(record, CallRecord)
    assert (record.tool, record.profile, record.outcome) == ("execute_query", profile, outcome)
    assert record.seconds > 0


async def test_what_nobody_expected_is_ours_and_is_told_to_the_log_alone(
    told: list[Record], caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> NoReturn:
        raise RuntimeError("the secret of the parser")

    async with Gateway(config_of(*PROFILES), environ={}, observers=[told.append], guard=broken) as gateway:
        with caplog.at_level(logging.ERROR):
            error = await refused(gateway, query="SELECT 1")

    assert isinstance(error, InternalError)
    assert error.profile == "local"
    assert "secret" not in str(error.to_dict())
    assert "the secret of the parser" in caplog.text
    assert [record.outcome for record in told] == ["internal"]


async def test_a_caller_that_goes_away_is_recorded_as_such(told: list[Record]) -> None:
    entered = asyncio.Event()
    release = threading.Event()

    def slow(*_: Any, **__: Any) -> NoReturn:
        loop.call_soon_threadsafe(entered.set)
        release.wait(10)
        raise RuntimeError("late")

    loop = asyncio.get_running_loop()
    async with Gateway(config_of(*PROFILES), environ={}, observers=[told.append], guard=slow) as gateway:
        # Long statements are judged in a thread.
        call = asyncio.create_task(gateway.read("execute_query", None, unreachable, query="SELECT 1" + " " * 5000))
        await asyncio.wait_for(entered.wait(), 10)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        release.set()

    assert [record.outcome for record in told] == ["cancelled"]


async def test_an_observer_that_fails_does_not_fail_the_call(told: list[Record]) -> None:
    def broken(_record: Record) -> None:
        raise RuntimeError("on purpose")

    observers: list[Callable[[Record], None]] = [broken, told.append]
    async with Gateway(config_of(*PROFILES), environ={}, observers=observers) as gateway:
        assert isinstance(await refused(gateway, "nosuch"), UnknownProfile)
    assert len(told) == 1
