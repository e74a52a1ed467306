"""The house: a module imports only from lower floors, and modules of one floor do not know each other.

Every import counts, those under TYPE_CHECKING and inside functions included.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "gateway"

# From the bottom to the top. A new file finds its floor by what it must know, not by its topic.
FLOORS: tuple[tuple[str, frozenset[str]], ...] = (
    ("words", frozenset({"__init__", "errors", "redact", "results"})),
    (
        "descriptions",
        frozenset(
            {
                "config_keys",
                "deadline",
                "dsn",
                "observe",
                "pg_types",
                "profiles",
                "sql_functions",
                "sql_rules",
                "sql_text",
                "threads",
            }
        ),
    ),
    (
        "rules and parts",
        frozenset(
            {
                "breaker",
                "config",
                "config_draft",
                "credentials",
                "dial_loop",
                "page_sql",
                "pg_errors",
                "policy",
                "progress",
                "retry",
                "session",
                "sql_guard",
                "sql_verdicts",
                "tls",
            }
        ),
    ),
    ("one connection", frozenset({"connect", "posture", "query", "snapshot", "standing", "suggest"})),
    ("many connections", frozenset({"backends", "hosts", "leases", "pools", "turns"})),
    ("the whole", frozenset({"app", "calls", "judging", "reading"})),
    (
        "tools",
        frozenset(
            {
                "tools",
                "tools.base",
                "tools.describe_table",
                "tools.execute_query",
                "tools.get_table_stats",
                "tools.list_tables",
                "tools.read_table",
                "tools.search_tables",
            }
        ),
    ),
    ("protocol", frozenset({"exchange", "server"})),
    ("wires", frozenset({"http", "transports"})),
    (
        "beside",
        frozenset(
            {
                "check",
                "demo",
                "demo_data",
                "demo_servers",
                "drill",
                "drill_load",
                "drill_page",
                "drill_probe",
                "drill_records",
                "drill_report",
                "drill_scenarios",
                "drill_table",
                "drill_timeline",
                "drill_verdict",
                "drill_view",
                "embedded",
                "embedded_account",
                "embedded_binaries",
                "embedded_guardian",
                "embedded_process",
                "toxiproxy",
            }
        ),
    ),
    ("roof", frozenset({"__main__", "cli", "display", "drilling", "serving"})),
)

# Where one floor has an order of its own: who may import whom there, and why.
INSIDE: dict[str, tuple[frozenset[str], str]] = {
    "pools": (
        frozenset({"backends", "hosts", "leases", "turns"}),
        "a pool lends connections to the host that fits, one dial at a time, and ends what is left behind",
    ),
    "backends": (frozenset({"leases"}), "a lease says which backend it was"),
    "config_keys": (frozenset({"dsn"}), "an address is the value of a key"),
    "config": (frozenset({"config_draft"}), "a configuration is a draft without faults"),
    "sql_guard": (frozenset({"sql_verdicts"}), "the guard walks the statement, the verdicts judge its parts"),
    "app": (
        frozenset({"calls", "judging", "reading"}),
        "a call, its tries and what a tool reads through are steps of the path that every read takes",
    ),
    "calls": (frozenset({"judging"}), "a call knows what is known of its database"),
    "reading": (frozenset({"judging"}), "a caller's statement is judged before it is read"),
    "tools": (frozenset(f"tools.{path.stem}" for path in (PACKAGE / "tools").glob("*.py")), "the list of the tools"),
    "demo": (frozenset({"demo_data", "demo_servers"}), "the demo serves databases of its own"),
    "demo_servers": (frozenset({"demo_data", "embedded"}), "servers are started and loaded"),
    "drill": (
        frozenset(
            {
                "drill_load",
                "drill_probe",
                "drill_records",
                "drill_report",
                "drill_scenarios",
                "drill_verdict",
                "embedded",
                "toxiproxy",
            }
        ),
        "a drill puts a load, a probe and faults together, and has what was recorded judged",
    ),
    "drill_load": (frozenset({"drill_records"}), "each call is recorded"),
    "drill_page": (
        frozenset({"drill_records", "drill_report", "drill_table", "drill_timeline"}),
        "a page is a table and a timeline of each scenario",
    ),
    "drill_probe": (frozenset({"drill_records"}), "each try is recorded"),
    "drill_report": (frozenset({"drill_records"}), "a report keeps the recordings"),
    "drill_scenarios": (frozenset({"embedded", "toxiproxy"}), "faults are a proxy's, or those of a server of our own"),
    "drill_table": (frozenset({"drill_report"}), "a table of verdicts"),
    "drill_timeline": (
        frozenset({"drill_records", "drill_report", "drill_verdict"}),
        "a picture of a recording, its losses marked",
    ),
    "drill_verdict": (frozenset({"drill_records", "drill_report"}), "a verdict is about a recording"),
    "drill_view": (
        frozenset({"drill", "drill_records", "drill_report", "drill_scenarios", "drill_table", "drill_verdict"}),
        "a drill is watched while it runs",
    ),
    "demo_data": (frozenset({"embedded"}), "data is loaded into a server"),
    "embedded": (
        frozenset({"embedded_account", "embedded_binaries", "embedded_guardian", "embedded_process"}),
        "a server is a process of some binaries under an account",
    ),
    "embedded_account": (frozenset({"embedded_binaries"}), "an account must be able to run the binaries"),
    "embedded_process": (
        frozenset({"embedded_account", "embedded_guardian"}),
        "a process has an account and a guardian",
    ),
    "toxiproxy": (frozenset({"embedded_process"}), "its server is a process that ends with us"),
    "cli": (frozenset({"display", "drilling", "serving"}), "commands run, and show what they found"),
    "drilling": (frozenset({"display", "serving"}), "a drill settles as `serve` does, and its errors are shown"),
    "__main__": (frozenset({"cli"}), "`python -m gateway` is the command"),
    **{
        f"tools.{path.stem}": (frozenset({"tools.base"}), "a tool is what base.py says")
        for path in (PACKAGE / "tools").glob("*.py")
        if path.stem not in ("base", "__init__")
    },
}

RANK = {name: rank for rank, (_, names) in enumerate(FLOORS) for name in names}


def module_name(path: Path, package: Path = PACKAGE) -> str:
    """Return a file's module as the table writes it: without `gateway.` in front."""
    parts = list(path.relative_to(package).with_suffix("").parts)
    if parts[-1] == "__init__" and len(parts) > 1:
        parts.pop()
    return ".".join(parts)


def imported(source: str, module: str, modules: frozenset[str], *, is_package: bool) -> Iterator[str]:
    """Yield the modules of the gateway that a source text imports, wherever it does so."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = ["gateway", *module.split(".")][: -node.level + is_package or None]
                base = ".".join([*above, base]).rstrip(".")
            found = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in found:
            first, _, rest = name.partition(".")
            if first != "gateway":
                continue
            # `from gateway.errors import ConfigError` names something inside the module.
            while rest and rest not in modules:
                rest = rest.rpartition(".")[0]
            yield rest or "__init__"


def refusal(module: str, other: str) -> str | None:
    """Return why a module may not import another, or None if it may."""
    if module == other or RANK[other] < RANK[module] or other in INSIDE.get(module, (frozenset(),))[0]:
        return None
    floors = " and ".join(dict.fromkeys(FLOORS[RANK[name]][0] for name in (module, other)))
    return f"{module} may not import {other} ({floors})"


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


MODULES = frozenset(module_name(path) for path in files())


def test_every_module_has_a_floor() -> None:
    homeless = MODULES - RANK.keys()
    assert not homeless, f"give these a floor in test_floors.py and docs/architecture.md: {sorted(homeless)}"


def test_every_module_of_the_table_exists() -> None:
    assert not RANK.keys() - MODULES
    assert not INSIDE.keys() - MODULES


@pytest.mark.parametrize("path", files(), ids=module_name)
def test_a_module_imports_only_from_lower_floors(path: Path) -> None:
    module = module_name(path)
    others = imported(path.read_text(), module, MODULES, is_package=path.name == "__init__.py")
    refused = {reason for other in others if (reason := refusal(module, other))}
    assert not refused, "; ".join(sorted(refused))


def test_an_inner_order_has_no_circle() -> None:
    def reaches(start: str, seen: frozenset[str] = frozenset()) -> frozenset[str]:
        for other in INSIDE.get(start, (frozenset[str](), ""))[0] - seen - {start}:
            seen = reaches(other, seen | {other})
        return seen

    assert not [name for name in INSIDE for other in reaches(name) - {name} if name in reaches(other)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import gateway.app", "app"),
        ("from gateway import app", "app"),
        ("from gateway.app import Gateway", "app"),
        ("from gateway import __version__", "__init__"),
        ("from gateway.tools import TOOLS", "tools"),
        ("from gateway.tools import base", "tools.base"),
        ("from gateway.tools.base import Tool", "tools.base"),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from gateway.app import Gateway", "app"),
        ("def late():\n    import gateway.app as whole", "app"),
        ("from ..app import Gateway", "app"),
        ("from .base import Tool", "tools.base"),
        ("from . import base", "tools.base"),
    ],
)
def test_an_import_is_seen_in_every_form(text: str, expected: str) -> None:
    assert list(imported(text, "tools.read_table", MODULES, is_package=False))[-1] == expected


@pytest.mark.parametrize(
    ("module", "other"),
    [
        ("errors", "profiles"),
        ("tls", "policy"),
        ("app", "server"),
        ("http", "demo"),
        ("tools.base", "tools.list_tables"),
    ],
)
def test_what_goes_up_or_sideways_is_refused(module: str, other: str) -> None:
    assert refusal(module, other) == f"{module} may not import {other} ({_floors_of(module, other)})"


def _floors_of(*names: str) -> str:
    return " and ".join(dict.fromkeys(FLOORS[RANK[name]][0] for name in names))


def test_the_page_on_architecture_has_the_same_floors() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| \d+ \| ([\w ]+) \| ([^|]+) \|", page, re.MULTILINE)
    documented = [(floor, frozenset(re.findall(r"`([\w.]+)`", names))) for floor, names in rows]
    assert documented == list(FLOORS)
