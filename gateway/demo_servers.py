"""The throw-away servers of the demo and of drills on it: a PostgreSQL for each environment, with a web shop in it."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from gateway.config import Config, load_config
from gateway.demo_data import DATABASES, READER, Environment, load_demo
from gateway.embedded import EmbeddedServer


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoServers:
    """Running servers, and the configuration that reads them: a profile for each, named as its environment."""

    config: Config
    servers: Mapping[Environment, EmbeddedServer]


@contextlib.asynccontextmanager
async def demo_servers(folder: Path, environments: Sequence[Environment]) -> AsyncIterator[DemoServers]:
    """Start and load a server for each environment, and write profiles.toml and the password into `folder`.

    The first environment is the active profile. Everything ends with the block; the folder is the caller's.
    """
    password = secrets.token_urlsafe(18)
    secret = folder / "password"
    secret.touch(mode=0o600)
    secret.write_text(password, encoding="utf-8")
    async with contextlib.AsyncExitStack() as stack:
        servers: dict[Environment, EmbeddedServer] = {}
        for environment in environments:
            servers[environment] = await stack.enter_async_context(EmbeddedServer.create())
            await load_demo(servers[environment], environment, reader_password=password)
        profiles = {
            environment: {
                "host": server.host,
                "port": server.port,
                "database": DATABASES[environment].name,
                "user": READER,
                "password": f"file:{secret}",
                "ssl_mode": "disable",
                "description": f"demo web shop, {environment}",
                "production": environment == "azure_prod",
            }
            for environment, server in servers.items()
        }
        file = folder / "profiles.toml"
        file.write_text(tomli_w.dumps({"default": environments[0], "profiles": profiles}), encoding="utf-8")
        # An operator's environment must not redirect the demo to a real database.
        yield DemoServers(config=load_config(file, {}, cwd=folder, user_config_dir=folder), servers=servers)
