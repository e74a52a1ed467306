"""What several folders of tests share: the event loop's kind, and the PostgreSQL servers, started when asked for.

`databases` is for tests that only read; `own_databases` are copies of a test's own, made in some tens of milliseconds.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator

import pytest

from gateway.errors import ConfigError
from tests.support.node import node_header
from tests.support.postgres import Pair, Servers, chosen_binaries


def pytest_configure() -> None:
    # A shell starts what it runs in the background with Ctrl-C ignored, and programs that tests start would inherit it.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> list[str]:
    try:
        servers = f"servers: {chosen_binaries()}"
    except ConfigError as error:
        servers = f"servers: none ({error.message})"
    return [servers, node_header()]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
async def servers(anyio_backend: str) -> AsyncIterator[Servers]:  # noqa: ARG001 - naming it lets plain tests use these fixtures, too
    """Start two servers for the whole session."""
    async with Servers.run() as running:
        yield running


@pytest.fixture(scope="session")
async def databases(servers: Servers) -> AsyncIterator[Pair]:
    """Give two databases that all tests share: never write to them, never stop their servers."""
    async with servers.copy() as pair:
        yield pair


@pytest.fixture
async def own_databases(servers: Servers) -> AsyncIterator[Pair]:
    """Give two databases that belong to this test alone, on the shared servers."""
    async with servers.copy() as pair:
        yield pair
