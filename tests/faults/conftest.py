"""What the fault tests share: one Toxiproxy, and databases of one content on two servers."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gateway.errors import ConfigError
from gateway.toxiproxy import Toxiproxy, find
from tests.faults.ground import Ground
from tests.support.missing import missing
from tests.support.postgres import Servers


@pytest.fixture(scope="session")
async def toxiproxy(anyio_backend: str) -> AsyncIterator[Toxiproxy]:  # noqa: ARG001 - anyio runs what names its backend
    """Run a Toxiproxy for the whole session; skips, or fails with CI=true, where there is none."""
    try:
        find()
    except ConfigError as error:
        missing(f"{error.message}; {error.hint}")
    async with Toxiproxy.run() as running:
        yield running


@pytest.fixture(scope="session")
async def ground(servers: Servers) -> AsyncIterator[Ground]:
    """Make the databases of the matrix on both servers."""
    async with Ground.prepare(servers) as prepared:
        yield prepared
