"""The MCP conformance suite against `pg-gateway serve --http`: the generic scenarios, which need no fixture tools.

The quick one runs on Node 20 and knows the eras up to 2025-11-25; the others need a newer Node and are slow.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.gateway import write_profiles
from tests.support.node import CONFORMANCE, CONFORMANCE_LATEST, CONFORMANCE_NEXT, Package, package
from tests.support.postgres import Pair
from tests.support.processes import serving

# Without a session there is nothing to resume: of server-sse-multiple-streams the older suites only warn.
HANDSHAKE_SCENARIOS = (
    "server-initialize",
    "ping",
    "tools-list",
    "dns-rebinding-protection",
    "server-sse-multiple-streams",
)
MODERN_SCENARIOS = (
    "server-stateless",
    "tools-list",
    "http-header-validation",
    "dns-rebinding-protection",
    "server-sse-multiple-streams",
    "caching",
    "input-required-result-unsupported-methods",
)
BASELINE = Path(__file__).with_name("conformance-2026-07-28.yml")


@pytest.fixture(scope="module")
async def url(databases: Pair, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    async with serving(write_profiles(tmp_path_factory.mktemp("conformance"), databases)) as served:
        yield served.url


@pytest.fixture(scope="module")
def suite() -> Package:
    return package(CONFORMANCE)


@pytest.fixture(scope="module")
def latest_suite() -> Package:
    return package(CONFORMANCE_LATEST, newer=True)


@pytest.fixture(scope="module")
def next_suite() -> Package:
    return package(CONFORMANCE_NEXT, newer=True)


def _conforms(suite: Package, url: str, folder: Path, *arguments: str) -> bool:
    ended = suite.run("server", "--url", url, "-o", str(folder), *arguments)
    # A scenario of an unknown name, or one that checks nothing, must not pass for a success.
    assert re.search(r"Passed: \d+/\d+", ended.stdout), ended.stdout + ended.stderr
    print(ended.stdout)
    return ended.returncode == 0


@pytest.mark.parametrize("scenario", HANDSHAKE_SCENARIOS)
def test_the_eras_with_a_handshake_conform(suite: Package, url: str, tmp_path: Path, scenario: str) -> None:
    assert _conforms(suite, url, tmp_path, "--scenario", scenario)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", HANDSHAKE_SCENARIOS)
def test_the_latest_suite_agrees(latest_suite: Package, url: str, tmp_path: Path, scenario: str) -> None:
    assert _conforms(latest_suite, url, tmp_path, "--scenario", scenario)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", MODERN_SCENARIOS)
def test_the_era_without_a_handshake_conforms(next_suite: Package, url: str, tmp_path: Path, scenario: str) -> None:
    era = ("--spec-version", "2026-07-28", "--expected-failures", str(BASELINE))
    assert _conforms(next_suite, url, tmp_path, "--scenario", scenario, *era)
