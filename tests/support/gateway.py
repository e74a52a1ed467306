"""A gateway over the two test databases, and a short way to call its tools as a client would."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import orjson

from gateway.app import Gateway
from gateway.config import Config
from gateway.observe import Observer
from gateway.profiles import Endpoint, Limits, PoolSettings, Profile, Tls
from gateway.results import to_json
from gateway.tools import TOOLS
from tests.support.postgres import Database, Pair


def profile_of(database: Database, name: str, *, as_superuser: bool = False, **changes: Any) -> Profile:
    """Return a profile that reads `database`; `changes` are fields of Profile."""
    values: dict[str, Any] = {
        "name": name,
        "endpoints": (Endpoint(host=database.host, port=database.port),),
        "database": database.name,
        "user": database.superuser if as_superuser else database.reader,
        "password": f"literal:{database.superuser_password if as_superuser else database.reader_password}",
        "tls": Tls(mode="disable"),
        "pool": PoolSettings(min=0, max=5),
        "limits": Limits(),
    }
    return Profile(**{**values, **changes})


def config_of(*profiles: Profile) -> Config:
    """Return a configuration of these profiles; the first is the active one."""
    return Config(profiles=MappingProxyType({p.name: p for p in profiles}), default=profiles[0].name)


@asynccontextmanager
async def gateway_over(
    pair: Pair, *, as_superuser: bool = False, observers: Sequence[Observer] = (), **changes: Any
) -> AsyncIterator[Gateway]:
    """Run a gateway with the profiles `first` and `second`; the first is the active one."""
    profiles = [
        profile_of(database, name, as_superuser=as_superuser, **changes)
        for database, name in zip(pair, ("first", "second"), strict=True)
    ]
    async with Gateway(config_of(*profiles), environ={}, observers=observers) as gateway:
        yield gateway


async def call(gateway: Gateway, tool: str, **arguments: Any) -> dict[str, Any]:
    """Return a tool's answer as a client reads it; raises the GatewayError that a client would be told."""
    found = next(known for known in TOOLS if known.name == tool)
    _, answer = await found.run(gateway, found.check(arguments))
    read: dict[str, Any] = orjson.loads(to_json(answer))
    return read


def records(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a table answer as a list of objects."""
    names = [column["name"] for column in answer["columns"]]
    return [dict(zip(names, row, strict=True)) for row in answer["rows"]]


def write_profiles(folder: Path, pair: Pair, *, default: str = "first", extra: str = "") -> Path:
    """Write a profiles.toml for the two databases, with passwords in files, and return its path."""
    lines = [f'default = "{default}"']
    for database, name in zip(pair, ("first", "second"), strict=True):
        secret = folder / f"{name}.password"
        secret.write_text(database.reader_password, encoding="utf-8")
        lines += [
            f"[profiles.{name}]",
            f'host = "{database.host}"',
            f"port = {database.port}",
            f'database = "{database.name}"',
            f'user = "{database.reader}"',
            f'password = "file:{secret}"',
            'ssl_mode = "disable"',
            "pool_size = { min = 0, max = 5 }",
        ]
    path = folder / "profiles.toml"
    path.write_text("\n".join([*lines, extra, ""]), encoding="utf-8")
    return path
