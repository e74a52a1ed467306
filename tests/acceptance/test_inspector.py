"""The MCP inspector's command line, a client of another house, against the gateway over both wires and in both eras.

It checks every answer against the tool's output schema, errors included, as other TypeScript clients do.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.tools import TOOLS
from tests.support.gateway import write_profiles
from tests.support.node import INSPECTOR, Package, package
from tests.support.postgres import Pair
from tests.support.processes import command, serving

WIRES = ("stdio", "http")
ERAS = ("legacy", "modern")
IS_ERROR = 5
CALLS: dict[str, dict[str, Any]] = {
    "list_tables": {"schema": "public", "limit": 5},
    "describe_table": {"table_name": "orders", "profile": "second"},
    "read_table": {"table_name": "customers", "limit": 2},
    "execute_query": {"query": "SELECT current_database() AS name, $1::int AS given", "params": ["7"]},
    "get_table_stats": {"table_name": "orders"},
    "search_tables": {"search_term": "customer", "profile": "second"},
}
DOWN = """
default = "first"
[profiles.first]
host = "127.0.0.1"
port = 9
database = "nothing"
user = "nobody"
ssl_mode = "disable"
"""


@pytest.fixture(scope="module")
def inspector() -> Package:
    return package(INSPECTOR)


def _entries(folder: Path, profiles: Path, url: str) -> Path:
    """Write the inspector's configuration: one server for each wire."""
    started, *arguments = command("serve", "--config", str(profiles))
    entries = {"stdio": {"command": started, "args": arguments}, "http": {"type": "streamable-http", "url": url}}
    path = folder / "mcp.json"
    path.write_text(json.dumps({"mcpServers": entries}), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
async def entries(databases: Pair, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Path]:
    folder = tmp_path_factory.mktemp("inspector")
    profiles = write_profiles(folder, databases)
    async with serving(profiles) as served:
        yield _entries(folder, profiles, served.url)


@pytest.fixture(scope="module")
async def entries_down(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Path]:  # noqa: ARG001 - naming it lets plain tests use this fixture
    """Give the same with every profile out of reach: nobody listens on the discard port."""
    folder = tmp_path_factory.mktemp("inspector-down")
    profiles = folder / "profiles.toml"
    profiles.write_text(DOWN, encoding="utf-8")
    async with serving(profiles) as served:
        yield _entries(folder, profiles, served.url)


def _inspect(
    inspector: Package, entries: Path, wire: str, era: str, *arguments: str
) -> tuple[int, dict[str, Any], str]:
    """Return the exit code, the result that was printed, and what went to stderr."""
    common = ("--cli", "--config", str(entries), "--server", wire, "--protocol-era", era, "--format", "json", "--quiet")
    ended = inspector.run(*common, *arguments)
    printed = json.loads(ended.stdout) if ended.stdout else {}
    return ended.returncode, printed.get("result", {}), ended.stderr


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("wire", WIRES)
def test_a_strict_look_at_the_schemas_finds_no_error(inspector: Package, entries: Path, wire: str, era: str) -> None:
    code, result, said = _inspect(inspector, entries, wire, era, "--method", "tools/list", "--strict")

    assert code == 0, said
    assert [tool["name"] for tool in result["tools"]] == [tool.name for tool in TOOLS]
    assert "0 errors" in said or not said.strip(), said


@pytest.mark.parametrize("tool", CALLS)
@pytest.mark.parametrize("wire", WIRES)
def test_each_tool_answers(inspector: Package, entries: Path, wire: str, tool: str) -> None:
    era = ERAS[list(CALLS).index(tool) % len(ERAS)]
    given = ("--method", "tools/call", "--tool-name", tool, "--tool-args-json", json.dumps(CALLS[tool]))
    code, result, said = _inspect(inspector, entries, wire, era, *given)

    assert code == 0, said
    assert result["structuredContent"]["profile"] == CALLS[tool].get("profile", "first")
    assert json.loads(result["content"][0]["text"]) == result["structuredContent"]


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("wire", WIRES)
def test_an_error_arrives_as_an_answer(inspector: Package, entries: Path, wire: str, era: str) -> None:
    given = ("--method", "tools/call", "--tool-name", "read_table", "--tool-arg", "table_name=custmers")
    code, result, said = _inspect(inspector, entries, wire, era, *given)

    assert code == IS_ERROR, said
    assert result["isError"] is True
    assert result["structuredContent"]["error"]["code"] == "not_found"


@pytest.mark.parametrize("wire", WIRES)
def test_the_tools_are_listed_with_every_profile_down(inspector: Package, entries_down: Path, wire: str) -> None:
    code, result, said = _inspect(inspector, entries_down, wire, "modern", "--method", "tools/list")

    assert code == 0, said
    assert len(result["tools"]) == len(TOOLS)


@pytest.mark.parametrize("wire", WIRES)
def test_a_profile_that_is_down_is_an_error_that_says_so(inspector: Package, entries_down: Path, wire: str) -> None:
    given = ("--method", "tools/call", "--tool-name", "list_tables")
    code, result, said = _inspect(inspector, entries_down, wire, "legacy", *given)

    assert code == IS_ERROR, said
    error = result["structuredContent"]["error"]
    assert (error["code"], error["profile"], error["retryable"]) == ("unavailable", "first", True)
