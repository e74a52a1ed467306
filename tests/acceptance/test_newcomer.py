"""What somebody does who has just cloned the project: the README's commands, its example, its client configurations."""

from __future__ import annotations

import json
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

from gateway import __version__
from gateway.tools import TOOLS
from tests.support.clients import body
from tests.support.postgres import Database, Pair
from tests.support.processes import environment, run_program

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
PROGRAM = Path(sys.executable).with_name("pg-gateway")


def blocks(page: str, language: str) -> list[str]:
    """Return the blocks of a page in a language."""
    found = re.findall(rf"^ *```{language}\n(.*?)^ *```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
    return [str(text) for text in found]


def stdio_entries() -> dict[str, dict[str, Any]]:
    """Return each entry of the pages by which a client starts the gateway itself."""
    entries = {}
    for page in ("README.md", "docs/clients.md"):
        for number, text in enumerate(blocks(page, "json")):
            known = json.loads(text)
            for name, entry in (known.get("mcpServers") or known.get("servers") or {}).items():
                if "command" in entry:
                    entries[f"{page}-{number}-{name}"] = entry
    return entries


def arranged(folder: Path, database: Database) -> tuple[Path, dict[str, str]]:
    """Write the README's profiles.toml, and return the environment that leads its profile to a test database."""
    path = folder / "profiles.toml"
    path.write_text(blocks("README.md", "toml")[0], encoding="utf-8")
    variables = {
        "LOCAL_PASSWORD": database.reader_password,
        "PGHOST": database.host,
        "PGPORT": str(database.port),
        "PGDATABASE": database.name,
        "SSL_MODE": "disable",
    }
    return path, variables


def package_files() -> set[str]:
    """Return the names of the files of the package, data included."""
    files = [path for path in (ROOT / "gateway").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {str(path.relative_to(ROOT)) for path in files}


async def test_the_demo_calls_each_tool_and_ends_well() -> None:
    ended = await run_program([str(PROGRAM), "demo", "--once"])

    assert ended.code == 0, ended.out + ended.err
    for tool in TOOLS:
        assert f"\n{tool.name}(" in ended.out
    assert f"All {len(TOOLS)} tools answered." in ended.out


async def test_the_command_and_the_module_are_the_same() -> None:
    by_name = await run_program([str(PROGRAM), "--version"])
    by_module = await run_program([sys.executable, "-m", "gateway", "--version"])

    assert by_name.out == by_module.out == f"pg-gateway {__version__}\n"


async def test_the_call_of_the_readme_has_the_answer_of_the_readme(databases: Pair, tmp_path: Path) -> None:
    profiles, variables = arranged(tmp_path, databases.first)
    asked, answered = (json.loads(text) for text in blocks("README.md", "json")[:2])

    server = StdioServerParameters(
        command=str(PROGRAM), args=["serve", "--config", str(profiles)], env=environment(**variables)
    )
    with (tmp_path / "log").open("w") as log:
        async with Client(stdio_client(server, errlog=log)) as client:
            result = await client.call_tool("execute_query", asked)

    assert body(result) == answered


@pytest.mark.parametrize("entry", stdio_entries().values(), ids=stdio_entries())
async def test_an_entry_of_a_client_starts_a_gateway(databases: Pair, tmp_path: Path, entry: dict[str, Any]) -> None:
    profiles, variables = arranged(tmp_path, databases.first)
    places = {
        "/path/to/pg-mcp-gateway/.venv/bin": str(PROGRAM.parent),
        "/path/to/profiles.toml": str(profiles),
        "${workspaceFolder}/profiles.toml": str(profiles),
    }

    def placed(text: str) -> str:
        for written, real in places.items():
            text = text.replace(written, real)
        return text

    assert set(entry.get("env", {})) == {"LOCAL_PASSWORD"}
    server = StdioServerParameters(
        command=placed(entry["command"]),
        args=[placed(argument) for argument in entry["args"]],
        env=environment(**variables),
    )
    with (tmp_path / "log").open("w") as log:
        async with Client(stdio_client(server, errlog=log)) as client:
            result = await client.call_tool("list_tables", {"profile": "local"})

    assert not result.is_error
    assert body(result)["row_count"] > 0


async def test_the_wheel_holds_what_the_package_reads(tmp_path: Path) -> None:
    ended = await run_program(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)], cwd=ROOT
    )

    assert ended.code == 0, ended.err
    with zipfile.ZipFile(tmp_path / f"pg_mcp_gateway-{__version__}-py3-none-any.whl") as wheel:
        held = set(wheel.namelist())
    assert not package_files() - held
