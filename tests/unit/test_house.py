"""What the house promises about itself: names, scripts, dependencies, and documents that do not lie."""

from __future__ import annotations

import ast
import json
import os
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from typer.main import get_command

import gateway
from gateway.cli import app
from gateway.tools import TOOLS

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(path for path in (ROOT / "scripts").iterdir() if path.is_file())
SHELL_SCRIPTS = [path for path in [*SCRIPTS, ROOT / ".ci" / "run"] if path.read_text().startswith("#!/bin/sh")]
CHORES = {"setup", "demo", "test", "check", "fix"}
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
DRAWERS = {"utils", "util", "helpers", "helper", "common", "manager", "managers", "misc", "service", "services"}
# mcp pins mcp-types to its own version: to name it would only allow the two to part.
OF_MCP = {"mcp_types"}
SHORT_LINES = 30


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_package_exports_a_handful_of_names() -> None:
    assert gateway.__all__ == ["__version__"]


def test_there_are_the_six_tools() -> None:
    assert [tool.name for tool in TOOLS] == [
        "list_tables",
        "describe_table",
        "read_table",
        "execute_query",
        "get_table_stats",
        "search_tables",
    ]


def test_no_module_is_a_drawer() -> None:
    files = [*(ROOT / "gateway").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    assert not [_name(path) for path in files if DRAWERS & set(re.split(r"[_/]", _name(path.with_suffix(""))))]


def test_each_chore_is_a_script() -> None:
    assert {path.name for path in SCRIPTS} >= CHORES
    assert {path.name for path in SHELL_SCRIPTS} >= CHORES | {"run"}


@pytest.mark.parametrize("path", SHELL_SCRIPTS, ids=_name)
def test_a_script_is_short_stops_at_errors_and_runs(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= SHORT_LINES
    assert lines[1].startswith("# ")
    assert "set -eu" in lines
    assert os.access(path, os.X_OK)


def test_every_import_of_the_package_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = [*project["dependencies"], *extras["demo"], *extras["drill"]]
    allowed = {re.split(r"[^\w.-]", line)[0].lower().replace("_", "-") for line in declared}
    distributions = packages_distributions()
    undeclared = {
        name
        for path in (ROOT / "gateway").rglob("*.py")
        for name in _imported(path)
        if name not in sys.stdlib_module_names | OF_MCP | {"gateway"}
        and not {found.lower().replace("_", "-") for found in distributions.get(name, [])} & allowed
    }
    assert not undeclared


def _imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-conformance.lock"])
def test_every_locked_package_has_its_hashes_and_no_address(name: str) -> None:
    text = (ROOT / name).read_text()
    packages = re.split(r"^(?=\w)", text, flags=re.MULTILINE)[1:]
    assert packages
    assert not [package.split()[0] for package in packages if "--hash=sha256:" not in package]
    assert "://" not in text


def test_the_lock_names_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    wanted = {re.split(r"[^\w.-]", line)[0].lower().replace("_", "-") for line in lines}
    locked = set(re.findall(r"^([\w.-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    assert not wanted - locked


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    links = [link.partition("#") for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    missing = [path for path, _, _ in links if path and not (page.parent / path).exists()]
    assert not missing
    for path, _, anchor in links:
        if anchor:
            assert anchor in _anchors(page.parent / path if path else page)


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    named = set(re.findall(r"(?<![\w./-])((?:scripts|docs|tests|gateway|deploy)/[\w./-]*\w)", page.read_text()))
    assert not [name for name in sorted(named) if not (ROOT / name).exists()]


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_command_of_a_page_exists(page: Path) -> None:
    commands = getattr(get_command(app), "commands")  # noqa: B009 - click's Group, which mypy does not see through typer
    for name, rest in re.findall(r"\bpg-gateway ([a-z]+)(?![\w:-])([^`\n]*)", page.read_text()):
        assert name in commands, f"pg-gateway {name}"
        known = {option for parameter in commands[name].params for option in parameter.opts} | {"--help"}
        assert not set(re.findall(r"(?<=[\s\[])--[a-z-]+", rest)) - known, f"pg-gateway {name}{rest}"


def test_every_command_is_in_the_readme() -> None:
    commands = getattr(get_command(app), "commands")  # noqa: B009 - as above
    assert not [name for name in commands if f"`pg-gateway {name}`" not in (ROOT / "README.md").read_text()]


def test_every_tool_is_in_the_readme() -> None:
    assert not [tool.name for tool in TOOLS if f"| `{tool.name}` |" not in (ROOT / "README.md").read_text()]


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_the_json_and_toml_of_a_page_can_be_read(page: Path) -> None:
    blocks = re.findall(r"^ *```(json|toml)\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE)
    read = [(json.loads if language == "json" else tomllib.loads)(text) for language, text in blocks]
    assert all(read)


def test_the_first_screen_of_the_readme_shows_a_call() -> None:
    screen = (ROOT / "README.md").read_text().splitlines()[:50]
    assert [line for line in screen if line.startswith("scripts/demo")]
    assert [line for line in screen if '"row_count"' in line]


def test_the_changelog_begins_with_what_is_not_released() -> None:
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
