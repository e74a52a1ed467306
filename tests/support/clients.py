"""MCP clients as users have them: the SDK's own, over either wire in either era, and a bare one that writes lines."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import httpx2
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult

from tests.support.processes import END_S, command, environment

Era = Literal["2025-11-25", "2026-07-28"]
ERAS: tuple[Era, ...] = ("2025-11-25", "2026-07-28")
ANSWER_S = 15.0
_LINE_BYTES = 64 * 2**20


def _mode(era: Era) -> str:
    # A client that may choose asks `server/discover` first, and falls back to the handshake.
    return "legacy" if era == "2025-11-25" else "auto"


def envelope(era: Era, **more: Any) -> dict[str, Any]:
    """Return the `_meta` of a request: who speaks which version, where the era asks for it."""
    modern = {
        "io.modelcontextprotocol/protocolVersion": era,
        "io.modelcontextprotocol/clientInfo": {"name": "a test", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    return {**(modern if era == "2026-07-28" else {}), **more}


def headers(era: Era, message: Mapping[str, Any], *, accept: str = "application/json") -> dict[str, str]:
    """Return the HTTP headers that go with a message."""
    fields = {"content-type": "application/json", "accept": accept, "mcp-protocol-version": era}
    if era == "2026-07-28":
        fields["mcp-method"] = message["method"]
        if "name" in message.get("params", {}):
            fields["mcp-name"] = message["params"]["name"]
    return fields


def call_message(era: Era, tool: str, arguments: Mapping[str, Any], *, id: Any = 1, **meta: Any) -> dict[str, Any]:
    """Return a `tools/call` request."""
    params: dict[str, Any] = {"name": tool, "arguments": dict(arguments)}
    if inside := envelope(era, **meta):
        params["_meta"] = inside
    return {"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}


@asynccontextmanager
async def over_http(url: str, era: Era, *, token: str | None = None) -> AsyncIterator[Client]:
    """Yield the SDK's client of a gateway that serves HTTP."""
    given = {"authorization": f"Bearer {token}"} if token else {}
    async with (
        httpx2.AsyncClient(trust_env=False, timeout=ANSWER_S, headers=given) as http,
        Client(streamable_http_client(url, http_client=http), mode=_mode(era)) as client,
    ):
        yield client


@asynccontextmanager
async def over_stdio(config: Path, era: Era, *, environ: Mapping[str, str] | None = None) -> AsyncIterator[Client]:
    """Yield the SDK's client of a gateway that it has started itself; the log is `stdio.log` beside the file."""
    argv = command("serve", "--config", str(config))
    server = StdioServerParameters(command=argv[0], args=argv[1:], env=dict(environ or environment()))
    with (config.parent / "stdio.log").open("a") as log:
        async with Client(stdio_client(server, errlog=log), mode=_mode(era)) as client:
            yield client


def body(result: CallToolResult) -> dict[str, Any]:
    """Return a result's structured content, having seen that its text says the same."""
    text = cast("Any", result.content[0]).text
    assert json.loads(text) == result.structured_content
    return cast("dict[str, Any]", result.structured_content)


@dataclass(slots=True)
class Wire:
    """A gateway on stdio, spoken to line by line."""

    process: Process
    era: Era
    log_file: Path
    others: list[dict[str, Any]] = field(default_factory=list)
    _last_id: int = 0

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)

    def send(self, message: Mapping[str, Any]) -> None:
        self.write(json.dumps(message).encode() + b"\n")

    def notify(self, method: str, **params: Any) -> None:
        if inside := envelope(self.era):
            params["_meta"] = inside
        self.send({"jsonrpc": "2.0", "method": method, "params": params})

    def start_call(self, tool: str, *, meta: Mapping[str, Any] | None = None, **arguments: Any) -> int:
        """Send a call and return its id, without waiting for the answer."""
        self._last_id += 1
        self.send(call_message(self.era, tool, arguments, id=self._last_id, **(meta or {})))
        return self._last_id

    async def read(self) -> dict[str, Any]:
        """Return the next message; a line that is none fails the test."""
        assert self.process.stdout is not None
        async with asyncio.timeout(ANSWER_S):
            line = await self.process.stdout.readuntil(b"\n")
        message: dict[str, Any] = json.loads(line)
        assert message["jsonrpc"] == "2.0"
        return message

    async def answer(self, id: Any) -> dict[str, Any]:
        """Return the reply to a request; what comes before it is kept in `others`."""
        while (message := await self.read()).get("id") != id:
            self.others.append(message)
        return message

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool and return the structured content."""
        reply = await self.answer(self.start_call(tool, **arguments))
        return cast("dict[str, Any]", reply["result"]["structuredContent"])

    async def close(self) -> int:
        """Close the gateway's stdin and return its exit code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        async with asyncio.timeout(END_S):
            return await self.process.wait()

    async def end(self, number: signal.Signals) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        async with asyncio.timeout(END_S):
            return await self.process.wait()


@asynccontextmanager
async def wire(config: Path, era: Era, *, argv: list[str] | None = None) -> AsyncIterator[Wire]:
    """Start a gateway on stdio and greet it as the era wants it; `argv` replaces the command line."""
    log_file = config.parent / "wire.log"
    with log_file.open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *(argv or command("serve", "--config", str(config))),
            stdin=PIPE,
            stdout=PIPE,
            stderr=log,
            limit=_LINE_BYTES,
            env=environment(),
        )
    opened = Wire(process, era, log_file)
    try:
        if era == "2025-11-25":
            opened.send(initialize(era))
            await opened.answer("greeting")
            opened.notify("notifications/initialized")
        yield opened
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        if process.stdin is not None:
            with contextlib.suppress(ConnectionError):
                process.stdin.close()
                await process.stdin.wait_closed()


def initialize(version: str) -> dict[str, Any]:
    """Return the request that opens a session of the older era."""
    params = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "a test", "version": "1"}}
    return {"jsonrpc": "2.0", "id": "greeting", "method": "initialize", "params": params}
