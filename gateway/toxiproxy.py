"""A Toxiproxy of our own: a server process that ends with us, and the proxies and toxics in it.

The calls go through the API consumer of toxiproxy-python, in threads, because it blocks. The client's other objects are
left aside: they know one server per process, have no time limit, and follow the proxy variables of the environment.
What the words mean stands in https://github.com/Shopify/toxiproxy#toxics.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import socket
import tempfile
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

from gateway.embedded_process import Guardian, Process
from gateway.errors import ConfigError

PROGRAM = "toxiproxy-server"
SOURCE = "github.com/Shopify/toxiproxy/v2/cmd/server@v2.12.0"
# Below the ports that Linux and macOS give to outgoing connections: a proxy that is down keeps its address only there,
# and a dial to it cannot by chance connect to itself.
PORTS = range(30_000, 32_768)

Stream = Literal["downstream", "upstream"]

_HOST = "127.0.0.1"
_START_S = 5.0
_CALL_S = 5.0
_TRIES = 20  # of ports; nearly all of them are free
_THREADS = 4


class Toxiproxy:
    """A running server; made by `run`."""

    def __init__(self, api: Any, threads: ThreadPoolExecutor) -> None:
        self._api = api
        self._threads = threads

    @classmethod
    @asynccontextmanager
    async def run(cls, *, binary: Path | None = None) -> AsyncIterator[Toxiproxy]:
        """Start a server on 127.0.0.1 and a free port; it ends with the block, or with this process.

        binary: the server's program; else `toxiproxy-server` on PATH, else the one of this checkout's `.cache`.
        Raises ConfigError, with a hint how to get what is missing.
        """
        program = find(binary)
        consumer = _consumer()
        async with Guardian.watch(tempfile.gettempdir()) as guardian:
            log = guardian.folder / "toxiproxy.log"
            with ThreadPoolExecutor(_THREADS, "toxiproxy") as threads:
                for _ in range(_TRIES):
                    port = _free_port()
                    argv = [str(program), "-host", _HOST, "-port", str(port)]
                    process = await guardian.run(argv, log=log, account=None)
                    # A class of its own for each server: the consumer keeps host and port on the class.
                    server = cls(type("Api", (consumer,), {"host": _HOST, "port": port}), threads)
                    if await server._is_up(process):
                        yield server
                        return
            last = log.read_text(errors="replace").strip().splitlines()[-1:]
        raise ConfigError([f"Toxiproxy ({program}) does not start: {''.join(last) or 'it says nothing'}"])

    async def proxy(self, name: str, upstream: tuple[str, int]) -> Proxy:
        """Open a proxy to an address, on a port of its own that it keeps while it is down."""
        refusal: ConfigError | None = None
        for _ in range(_TRIES):
            wanted = {"name": name, "upstream": _address(upstream), "listen": f"{_HOST}:{_free_port()}"}
            try:
                made = await self.call("post", "/proxies", json=wanted)
            except ConfigError as error:
                if error.details.get("status", 0) < 500:  # noqa: PLR2004 - a busy port is answered by 500
                    raise
                refusal = error
            else:
                host, _, port = made["listen"].rpartition(":")
                return Proxy(self, name, (host, int(port)))
        raise ConfigError(["Toxiproxy found no free port"]) from refusal

    async def call(self, method: Literal["get", "post", "delete"], path: str, **keywords: Any) -> Any:
        """Return the decoded answer of Toxiproxy's HTTP interface; raises ConfigError if it has none, or refuses."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._call, method, path, keywords)

    def _call(self, method: str, path: str, keywords: dict[str, Any]) -> Any:
        from toxiproxy import exceptions  # type: ignore[import-untyped]  # it has no type hints

        try:
            # No proxy: what is asked is on this machine, whatever http_proxy says.
            answer = getattr(self._api, method)(path, timeout=_CALL_S, proxies={"http": ""}, **keywords)
        except (exceptions.ProxyExists, exceptions.NotFound, exceptions.InvalidToxic) as error:
            # The names say less than the text: any 409 is a ProxyExists, any 400 an InvalidToxic.
            status = {exceptions.ProxyExists: 409, exceptions.NotFound: 404}.get(type(error), 400)
            raise _refusal(status, error.args[0]) from error
        except OSError as error:  # what the requests library raises are OSErrors
            raise ConfigError([f"Toxiproxy does not answer within {_CALL_S:g} s: {type(error).__name__}"]) from error
        if answer.status_code >= 400:  # noqa: PLR2004 - the consumer knows three of them only
            raise _refusal(answer.status_code, answer.content)
        return answer.json() if answer.content else None

    async def _is_up(self, process: Process) -> bool:
        """Wait until it answers; False if it has ended, which is what it does when its port is taken."""
        give_up = time.monotonic() + _START_S
        while process.is_alive and time.monotonic() < give_up:
            try:
                await self.call("get", "/version")
            except ConfigError:
                await asyncio.sleep(0.01)
            else:
                return process.is_alive
        return False


class Proxy:
    """An address that leads to another one, and the toxics on the way; made by `Toxiproxy.proxy`."""

    def __init__(self, server: Toxiproxy, name: str, address: tuple[str, int]) -> None:
        self.name = name
        self.address = address
        self._server = server
        self._path = f"/proxies/{name}"

    async def add(
        self,
        kind: str,
        *,
        stream: Stream = "downstream",
        toxicity: float = 1.0,
        name: str | None = None,
        **attributes: int,
    ) -> str:
        """Add a toxic, which takes effect at once, and return its name.

        toxicity: the share of the connections that get it. Raises ValueError for an attribute that the kind has not.
        """
        wanted: dict[str, Any] = {"type": kind, "stream": stream, "toxicity": toxicity, "attributes": attributes}
        if name is not None:
            wanted["name"] = name
        made = await self._server.call("post", f"{self._path}/toxics", json=wanted)
        # An unknown attribute is accepted, and has no effect: what came back shows it.
        try:
            _check(made, attributes)
        except ValueError:
            await self.remove(made["name"])
            raise
        return str(made["name"])

    async def change(self, name: str, *, toxicity: float | None = None, **attributes: int) -> None:
        """Change a toxic where it is: the attributes that are named, on the connections that have it already too."""
        wanted: dict[str, Any] = {"attributes": attributes}
        if toxicity is not None:
            wanted["toxicity"] = toxicity
        _check(await self._server.call("post", f"{self._path}/toxics/{name}", json=wanted), attributes)

    async def remove(self, name: str) -> None:
        """Take a toxic away. A `timeout` closes the connections that had it."""
        await self._server.call("delete", f"{self._path}/toxics/{name}")

    async def clear(self) -> None:
        """Take all toxics away, and listen again."""
        for toxic in await self._server.call("get", f"{self._path}/toxics"):
            await self.remove(toxic["name"])
        await self.up()

    async def down(self) -> None:
        """Close all connections and refuse new ones."""
        await self._server.call("post", self._path, json={"enabled": False})

    async def up(self) -> None:
        """Listen again, at the same address."""
        await self._server.call("post", self._path, json={"enabled": True})

    async def point_at(self, upstream: tuple[str, int]) -> None:
        """Lead to another address from now on; this closes all connections."""
        await self._server.call("post", self._path, json={"upstream": _address(upstream)})

    async def destroy(self) -> None:
        """Close all connections and forget the proxy."""
        await self._server.call("delete", self._path)


def _refusal(status: int, body: bytes) -> ConfigError:
    """Return the error of a Toxiproxy that answered, but would not; its HTTP status stands in the details."""
    try:
        reason = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        reason = body.decode(errors="replace").strip()
    error = ConfigError([f"Toxiproxy refuses: {reason}"])
    error.details = {"status": status}
    return error


def find(binary: Path | None = None) -> Path:
    """Return the server's program, or raise ConfigError with a hint how to get it."""
    root = Path(__file__).parent.parent
    on_path = shutil.which(PROGRAM)
    if binary is not None:
        candidates = [binary]
    else:
        candidates = [Path(on_path)] if on_path else []
        if (root / "pyproject.toml").exists():  # else the folder above the package is none of ours
            candidates.append(root / ".cache" / "toxiproxy" / "server")
    for candidate in candidates:
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return candidate
    raise ConfigError(
        [f"Toxiproxy's server was not found: {binary or PROGRAM + ' is not on PATH'}"],
        hint=f"get it with `go install {SOURCE}`, and put the `server` that this builds on PATH as {PROGRAM};"
        " in a checkout scripts/setup does it",
    )


def _consumer() -> Any:
    try:
        from toxiproxy.api import APIConsumer  # type: ignore[import-untyped]  # it has no type hints
    except ImportError as error:
        raise ConfigError(
            ["the Python package toxiproxy-python is not installed"], hint="pip install 'pg-mcp-gateway[drill]'"
        ) from error
    return APIConsumer


def _check(toxic: dict[str, Any], attributes: dict[str, int]) -> None:
    unknown = {key: value for key, value in attributes.items() if toxic["attributes"].get(key) != value}
    if unknown:
        known = ", ".join(toxic["attributes"])
        raise ValueError(f"a toxic of type {toxic['type']} has no {', '.join(unknown)}: it has {known}")


def _address(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _free_port() -> int:
    """Return a port that was free a moment ago."""
    while True:
        port = random.choice(PORTS)  # noqa: S311 - any will do
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((_HOST, port))
            except OSError:
                continue
            return port
