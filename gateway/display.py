"""What the commands print: tables for people, JSON and CSV for programs."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway.check import Hop, check_profile
from gateway.config import Config
from gateway.errors import GatewayError
from gateway.posture import least_privilege_sql
from gateway.profiles import Profile
from gateway.results import to_json

_SHOWN_CHARS = 100
_MARKS = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "failed": ("✗", "red")}


def _print_json(value: Any) -> None:
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n")


def _pointer(text: str, position: int) -> str:
    """Return the line of `text` at this character, counted from 1, and a mark below it."""
    start = text.rfind("\n", 0, position - 1) + 1
    end = text.find("\n", position - 1)
    line = text[start : end if end >= 0 else None]
    column = position - 1 - start
    first = max(0, column - _SHOWN_CHARS // 2)
    return f"    {line[first : first + _SHOWN_CHARS]}\n    {' ' * (column - first)}^"


def explain(error: GatewayError, *, statement: str = "") -> None:
    """Print an error to stderr, with its place in the statement and what to do."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(Text(f"{error.code}: ", style="bold red") + Text(error.message))
    if error.position is not None and error.position <= len(statement):
        console.print(Text(_pointer(statement, error.position)))
    if error.hint:
        console.print(Text(f"  {error.hint}", style="dim"))


def _auth(profile: Profile) -> str:
    if profile.azure.use_ad:
        return f"Entra ({profile.azure.credential})"
    password = profile.password or ""
    kind = next((kind for kind in ("env", "file", "keyvault") if password.startswith(f"{kind}:")), None)
    return f"password from {password}" if kind else "literal password" if password else "none"


def _profile_row(profile: Profile, config: Config) -> dict[str, Any]:
    return {
        "name": profile.name,
        "target": profile.address,
        "user": profile.user,
        "auth": _auth(profile),
        "tls": profile.tls.mode,
        "pool": f"{profile.pool.min}-{profile.pool.max}",
        "active": profile.name == config.default,
        "production": profile.production,
        "overrides": dict(profile.overrides),
        "unsupported": profile.unsupported(),
    }


def show_profiles(config: Config, *, as_json: bool) -> None:
    """Print the profiles."""
    rows = [_profile_row(profile, config) for profile in config.profiles.values()]
    if as_json:
        _print_json({"file": str(config.path) if config.path else None, "pinned": config.pinned, "profiles": rows})
        return
    table = Table(title=str(config.path) if config.path else "from the environment", title_justify="left")
    for heading in ("", "profile", "target", "user", "auth", "TLS", "pool"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        name = Text(row["name"], style="bold" if row["active"] else "")
        if row["production"]:
            name.append(" production", style="red")
        table.add_row(
            "●" if row["active"] else "", name, row["target"], row["user"], row["auth"], row["tls"], row["pool"]
        )
    console = Console(highlight=False)
    console.print(table)
    console.print(f"● active{', pinned by DB_PROFILE' if config.pinned else ''}")
    for row in rows:
        if row["overrides"]:
            changed = ", ".join(f"{key} from {variable}" for key, variable in row["overrides"].items())
            console.print(f"{row['name']}: {changed}")
        if row["unsupported"]:
            console.print(Text(f"{row['name']}: {row['unsupported']}", style="yellow"))
    for warning in config.warnings:
        console.print(Text(warning, style="yellow"))


async def show_check(
    profiles: Sequence[Profile], *, environ: Mapping[str, str], as_json: bool, timeout_s: float, with_sql: bool
) -> int:
    """Print each profile's hops as they are done; returns the exit code."""
    console = Console(highlight=False, soft_wrap=True)
    report: dict[str, list[dict[str, Any]]] = {}
    failed = False
    for profile in profiles:
        report[profile.name] = []
        if not as_json:
            console.print(Text(profile.name, style="bold"))
        async for hop in check_profile(profile, environ=environ, timeout_s=timeout_s):
            failed = failed or hop.state == "failed"
            sql = least_privilege_sql(hop.posture, schemas=profile.schemas) if with_sql and hop.posture else None
            report[profile.name].append(_hop_row(hop, sql))
            if not as_json:
                _print_hop(console, hop, sql)
    if as_json:
        _print_json(report)
    return int(failed)


def _hop_row(hop: Hop, sql: str | None) -> dict[str, Any]:
    row: dict[str, Any] = {"name": hop.name, "state": hop.state, "detail": hop.detail}
    row |= {"hint": hop.hint, "seconds": hop.seconds}
    if hop.posture is not None:
        row["risks"] = list(hop.posture.risks)
    return row if sql is None else {**row, "sql": sql}


def _print_hop(console: Console, hop: Hop, sql: str | None) -> None:
    mark, style = _MARKS[hop.state]
    console.print(Text(f"  {mark} ", style=style) + Text(f"{hop.name:<14}", style="bold") + Text(hop.detail))
    if hop.hint:
        console.print(Text(f"                  {hop.hint}", style="dim"))
    if sql is not None:
        console.print(Text(f"\n{sql}\n", style="cyan"))


def _cell_text(value: Any) -> str:
    return value if isinstance(value, str) else to_json(value).decode()


def show_query(answer: Mapping[str, Any], *, form: str) -> None:
    """Print the page of `execute_query` as a table, JSON or CSV; what was left out goes to stderr."""
    body = to_json(answer)
    if form == "json":
        sys.stdout.write(body.decode() + "\n")
        return
    page = orjson.loads(body)
    names = [column["name"] for column in page["columns"]]
    if form == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([["" if value is None else _cell_text(value) for value in row] for row in page["rows"]])
    else:
        table = Table(title=page["profile"], title_justify="left")
        for column in page["columns"]:
            table.add_column(Text(column["name"]), overflow="fold")
        for row in page["rows"]:
            table.add_row(*(Text("NULL", style="dim") if v is None else Text(_cell_text(v)) for v in row))
        Console(highlight=False).print(table)
    notes = Console(stderr=True, highlight=False)
    count = page["row_count"]
    # Text: what is in brackets is no markup.
    notes.print(
        Text(f"{count} row" + ("s" if count != 1 else "") + (", cut" if page["truncated"] else ""), style="dim")
    )
    if page.get("hint"):
        notes.print(Text(page["hint"], style="dim"))


def show_verdict(verdict: Mapping[str, Any], *, as_json: bool) -> None:
    """Print what the guard decides about a text."""
    if as_json:
        _print_json(dict(verdict))
        return
    console = Console(highlight=False, soft_wrap=True)
    mark, style = _MARKS["ok" if verdict["verdict"] == "allowed" else "failed"]
    console.print(Text(f"{mark} {verdict['verdict']}", style=f"bold {style}") + Text(f", by {verdict['judged_by']}"))
    left_out = {"verdict", "judged_by", "profile", "retryable"}
    for key, value in verdict.items():
        if key not in left_out and value not in (None, [], 0):
            shown = ", ".join(value) if isinstance(value, list) else str(value)
            console.print(Text(f"  {key:<16}", style="bold") + Text(shown))
