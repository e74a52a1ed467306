"""`profiles.toml` and the environment, read into a frozen `Config`, or all their faults at once.

The only module that reads the environment, from a mapping it is given. Which keys and variables
there are stands in `config_keys.py`; here is how they are found, laid over each other and checked
against each other. Nothing is connected to, and no secret is read.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gateway.config_draft import Draft, Findings, Layer, Paths, Setting, quoted, shown_value, url_settings
from gateway.config_keys import VARIABLES, nearest, written
from gateway.errors import ConfigError
from gateway.profiles import PROFILE_NAME, Profile

FILE_NAME = "profiles.toml"
ONLY_PROFILE = "default"
NAME_RULE = "a profile's name is a letter, then at most 62 letters, digits, _ or -"

_CONNECTION_KEYS = frozenset(("url", "host", "port", "database", "user", "password"))
_TOP_KEYS = ("default", "profiles")
_TOML_PLACE = re.compile(r"(?P<what>.*) \(at line (?P<line>\d+), column (?P<column>\d+)\)\Z", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything that was configured.

    default: the profile of calls that name none. pinned: whether DB_PROFILE chose it, for good.
    path: the file, if there is one. warnings: what works but should be changed, one sentence each.
    """

    profiles: Mapping[str, Profile]
    default: str
    pinned: bool = False
    path: Path | None = None
    warnings: tuple[str, ...] = ()


def load_config(path: Path | None, environ: Mapping[str, str], *, cwd: Path, user_config_dir: Path) -> Config:
    """Return the configuration; raise ConfigError with all its faults.

    The file is `path`, else PG_GATEWAY_CONFIG, else profiles.toml in `cwd`, else in
    `user_config_dir`; without any, the environment alone must describe one profile.
    """
    findings = Findings()
    present = _present(environ, findings=findings)
    file = _find(path, present.get("PG_GATEWAY_CONFIG"), cwd=cwd, user_config_dir=user_config_dir)
    label = _label(file, cwd) if file else "environment"
    document = _read(file, label=label) if file else {}
    tables = _tables(document, label=label, findings=findings)
    is_file = bool(tables or findings.faults)
    refused: set[str] = set()
    variables = _environment(
        present, paths=Paths(base=cwd, home=environ.get("HOME")), refused=refused, findings=findings
    )
    if not is_file:
        tables = _only_profile(present, label=label, findings=findings)
    default = _default(document, tables, chosen=present.get("DB_PROFILE"), label=label, findings=findings)
    paths = Paths(base=file.parent if file else cwd, home=environ.get("HOME"))
    profiles: dict[str, Profile] = {}
    for name, table in tables.items():
        place = f"{label}: [profiles.{quoted(name)}]" if is_file else "environment:"
        draft = Draft(name=name, place=place, findings=findings)
        draft.read(table, paths=paths)
        if name == default:
            draft.override(variables, refused=refused)
        profiles[name] = draft.profile()
    if findings.faults:
        raise ConfigError(list(dict.fromkeys(findings.faults)))
    return Config(
        profiles=MappingProxyType(profiles),
        default=default,
        pinned="DB_PROFILE" in present,
        path=file,
        warnings=tuple(dict.fromkeys(findings.warnings)),
    )


def _present(environ: Mapping[str, str], *, findings: Findings) -> dict[str, str]:
    found = {}
    for variable in VARIABLES:
        value = written(environ, variable.name)
        if value is not None:
            found[variable.name] = value
        elif environ.get(variable.name, "").strip():
            findings.warnings.append(
                f"environment: {variable.name}: holds the text of a variable that was not expanded; taken as not set"
            )
    return found


def _find(path: Path | None, variable: str | None, *, cwd: Path, user_config_dir: Path) -> Path | None:
    asked = cwd / path if path is not None else cwd / variable if variable is not None else None
    if asked is not None:
        if os.path.isfile(asked):  # noqa: PTH113 - Path.is_file raises where a folder may not be entered
            return asked
        place = "--config" if path is not None else "environment: PG_GATEWAY_CONFIG"
        raise ConfigError([f"{place} = {shown_value(str(path or variable))}: there is no such file"])
    for folder in (cwd, user_config_dir):
        if os.path.isfile(folder / FILE_NAME):  # noqa: PTH113 - as above
            return folder / FILE_NAME
    return None


def _label(file: Path, cwd: Path) -> str:
    return str(file.relative_to(cwd)) if file.is_relative_to(cwd) else str(file)


def _read(file: Path, *, label: str) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError([f"{label}: cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError as error:
        raise ConfigError([f"{label}: is not UTF-8 at byte {error.start + 1}"]) from None
    except tomllib.TOMLDecodeError as error:
        place = _TOML_PLACE.match(str(error))
        where = f"line {place['line']}, column {place['column']}: {place['what']}" if place else str(error)
        raise ConfigError([f"{label}: {where}"], hint='strings stand in quotes: name = "value"') from None
    except (ValueError, RecursionError):  # a number of thousands of digits, or brackets as deep
        raise ConfigError([f"{label}: holds a value that is too long or too deep to read"]) from None


def _environment(present: Mapping[str, str], *, paths: Paths, refused: set[str], findings: Findings) -> Layer:
    """Return what the variables set, by key; a URL is spread out and stays as `url`, too.

    The keys whose variables have faults are added to `refused`.
    """
    layer: Layer = {}
    single: Layer = {}
    for variable in (variable for variable in VARIABLES if variable.key and variable.name in present):
        raw, place = present[variable.name], f"environment: {variable.name}"
        shown = shown_value(raw, is_secret=variable.is_secret)
        try:
            value = variable.parse(raw)
        except ValueError as error:
            findings.faults.append(f"{place} = {shown}: {error}")
            refused.add(variable.key)
            continue
        if variable.key == "ssl_root_cert":
            value = paths.anchor(variable.key, value)
        setting = Setting(value=value, place=place, shown=shown, variable=variable.name)
        if variable.key == "url":
            layer = url_settings(setting, paths=paths, findings=findings) | {"url": setting}
            continue
        other = single.setdefault(variable.key, setting)
        if other.value != value:
            findings.faults.append(setting.fault(f"contradicts {other.variable}: leave one of them out"))
    layer |= single
    password, token = layer.get("password"), layer.get("use_azure_ad")
    if password and token and token.value:
        findings.faults.append(token.fault(f"contradicts the password of {password.variable}: leave one of them out"))
    return layer


def _tables(document: Mapping[str, Any], *, label: str, findings: Findings) -> dict[str, dict[str, Any]]:
    for key in document:
        if key not in _TOP_KEYS:
            findings.faults.append(f"{label}: {quoted(key)}: unknown key; {nearest(key, _TOP_KEYS)}")
    raw = document.get("profiles", {})
    if not isinstance(raw, dict):
        findings.faults.append(f"{label}: profiles = {shown_value(raw)}: must be tables, as [profiles.local]")
        return {}
    tables = {}
    for name, table in raw.items():
        if not PROFILE_NAME.match(name):
            findings.faults.append(f"{label}: [profiles.{quoted(name)}]: {NAME_RULE}")
        if isinstance(table, dict):
            tables[name] = table
        else:
            findings.faults.append(
                f"{label}: profiles.{quoted(name)}: must be a table: a profile's keys stand below [profiles.NAME]"
            )
    return tables


def _only_profile(present: Mapping[str, str], *, label: str, findings: Findings) -> dict[str, dict[str, Any]]:
    """Return the one profile that the environment alone describes, without any value yet."""
    if not any(variable.name in present and variable.key in _CONNECTION_KEYS for variable in VARIABLES):
        raise ConfigError(
            [f"{label}: no profile is configured", *findings.faults],
            hint=f"write a {FILE_NAME} with a [profiles.NAME] table, "
            "or set DATABASE_URL, or PGHOST, PGDATABASE, PGUSER and PGPASSWORD",
        )
    name = present.get("DB_PROFILE", ONLY_PROFILE)
    if not PROFILE_NAME.match(name):
        findings.faults.append(f"environment: DB_PROFILE = {shown_value(name)}: {NAME_RULE}")
    return {name: {}}


def _default(
    document: Mapping[str, Any], tables: Mapping[str, Any], *, chosen: str | None, label: str, findings: Findings
) -> str:
    """Return the profile of calls that name none; empty after a fault."""
    names = tuple(tables)
    named = document.get("default")
    if named is not None and not (isinstance(named, str) and named in names):
        findings.faults.append(f"{label}: default = {shown_value(named)}: names no profile; {_near(named, names)}")
        named = None
    if chosen is not None:
        if chosen in names:
            return chosen
        findings.faults.append(
            f"environment: DB_PROFILE = {shown_value(chosen)}: names no profile; {_near(chosen, names)}"
        )
        return ""
    if isinstance(named, str):
        return named
    if len(names) == 1:
        return names[0]
    if "default" not in document and names:
        findings.faults.append(f"{label}: default: is missing: name one of {', '.join(names)}")
    return ""


def _near(word: object, names: tuple[str, ...]) -> str:
    return nearest(str(word), names) if names else "there are none"
