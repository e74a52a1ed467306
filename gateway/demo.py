"""`pg-gateway demo`: three throw-away servers, a web shop in each, a gateway over them, and a call of each tool.

Everything is real: PostgreSQL, HTTP, and the MCP SDK's own client. Used by the roof only.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import httpx2
import orjson
import uvicorn
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from rich.console import Console
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from gateway.app import Gateway
from gateway.config import Config
from gateway.demo_data import Environment
from gateway.demo_servers import demo_servers
from gateway.http import build_http_app
from gateway.server import build_server

_ENVIRONMENTS: Final[tuple[Environment, ...]] = ("local", "azure_dev", "azure_prod")
_SHOWN_ROWS: Final = 6
_CALLS: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("list_tables", {"profile": "local"}),
    ("describe_table", {"table_name": "orders", "profile": "azure_dev"}),
    ("read_table", {"table_name": "customers", "limit": 3, "profile": "azure_prod"}),
    (
        "execute_query",
        {
            "query": "SELECT status, count(*) AS orders FROM orders GROUP BY status ORDER BY orders DESC",
            "profile": "azure_prod",
        },
    ),
    ("get_table_stats", {"table_name": "orders", "profile": "azure_prod"}),
    ("search_tables", {"search_term": "customer", "limit": 5}),
)


@contextlib.asynccontextmanager
async def _databases(console: Console, folder: Path) -> AsyncIterator[Config]:
    """Start the three servers and yield the configuration that reads them, telling how long it took."""
    started = time.monotonic()
    async with contextlib.AsyncExitStack() as stack:
        with console.status("starting three PostgreSQL servers and loading a web shop into each …"):
            demo = await stack.enter_async_context(demo_servers(folder, _ENVIRONMENTS))
        seconds = time.monotonic() - started
        version = demo.servers["local"].major_version
        console.print(f"Three PostgreSQL {version} servers with a web shop each are up, after {seconds:.1f} s.")
        yield demo.config


@contextlib.asynccontextmanager
async def _serving(config: Config, host: str, port: int) -> AsyncIterator[str]:
    """Serve the gateway over HTTP and yield the URL; the port is another one when that is taken."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError:
        listener.bind((host, 0))
    async with Gateway(config, environ={}) as gateway:
        web = build_http_app(build_server(gateway, finished=True), host=host)
        server = uvicorn.Server(uvicorn.Config(web, log_config=None, lifespan="off", timeout_graceful_shutdown=2))
        # The demo itself takes Ctrl-C, to stop the servers after the gateway.
        server.capture_signals = contextlib.nullcontext  # type: ignore[assignment] # uvicorn has no setting for it
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            while not server.started and not task.done():  # noqa: ASYNC110 - uvicorn sets a flag and has no event
                await asyncio.sleep(0.01)
            shown = f"[{host}]" if ":" in host else host
            yield f"http://{shown}:{listener.getsockname()[1]}/mcp"
        finally:
            server.should_exit = True
            await task


def _snippets(console: Console, url: str, folder: Path) -> None:
    by_url = {"mcpServers": {"pg-gateway": {"type": "http", "url": url}}}
    stdio = {
        "mcpServers": {
            "pg-gateway": {
                "command": sys.executable,
                "args": ["-m", "gateway", "serve", "--config", str(folder / "profiles.toml")],
            }
        }
    }
    code = {"servers": {"pg-gateway": {"type": "http", "url": url}}}
    blocks = (
        ("Claude Code", f"claude mcp add --transport http pg-gateway {url}", "bash"),
        ("Cursor (.cursor/mcp.json), Claude Code (.mcp.json)", json.dumps(by_url, indent=2), "json"),
        ("VS Code (.vscode/mcp.json)", json.dumps(code, indent=2), "json"),
        ("Claude Desktop (claude_desktop_config.json), over stdio", json.dumps(stdio, indent=2), "json"),
    )
    for title, text, language in blocks:
        syntax = Syntax(text, language, word_wrap=True, background_color="default")
        console.print(Panel(syntax, title=title, title_align="left"))


def _show(console: Console, tool: str, arguments: dict[str, Any], answer: dict[str, Any], seconds: float) -> None:
    given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    console.print(Text(f"\n{tool}({given})", style="bold cyan") + Text(f"  {seconds * 1000:.0f} ms", style="dim"))
    if "rows" in answer and isinstance(answer["rows"], list):
        table = Table()
        for column in answer["columns"]:
            table.add_column(column["name"], overflow="fold")
        for row in answer["rows"][:_SHOWN_ROWS]:
            table.add_row(*("" if v is None else v if isinstance(v, str) else orjson.dumps(v).decode() for v in row))
        console.print(table)
        left = len(answer["rows"]) - _SHOWN_ROWS
        console.print(f"profile {answer['profile']}" + (f", {left} more rows in the answer" if left > 0 else ""))
        return
    text = json.dumps(answer, indent=1, ensure_ascii=False)
    lines = text.splitlines()
    shown = "\n".join(lines[:28]) + (f"\n… {len(lines) - 28} more lines" if len(lines) > 28 else "")  # noqa: PLR2004 - a screenful
    console.print(Syntax(shown, "json", background_color="default"))


async def _call_all(console: Console, url: str) -> int:
    """Call each tool once through the SDK's client; returns how many failed."""
    failed = 0
    # A proxy of the environment has no business between the demo and itself.
    async with (
        httpx2.AsyncClient(trust_env=False, timeout=60) as http,
        Client(streamable_http_client(url, http_client=http)) as client,
    ):
        for tool, arguments in _CALLS:
            started = time.monotonic()
            result = await client.call_tool(tool, arguments)
            seconds = time.monotonic() - started
            answer = result.structured_content or {}
            if result.is_error:
                failed += 1
                console.print(Text(f"\n{tool} failed: {answer}", style="bold red"))
            else:
                _show(console, tool, arguments, answer, seconds)
    return failed


async def run_demo(*, host: str, port: int, once: bool) -> int:
    """Run the demo until Ctrl-C, or with `once` until each tool was called; returns the exit code."""
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory(prefix="pg-gateway-demo-") as name:
        folder = Path(name)
        async with _databases(console, folder) as config, _serving(config, host, port) as url:
            console.print(f"The gateway serves MCP at [bold]{url}[/] (profiles: {', '.join(config.profiles)}).\n")
            if not once:
                _snippets(console, url, folder)
            failed = await _call_all(console, url)
            if failed:
                console.print(f"\n{failed} of {len(_CALLS)} calls failed.", style="bold red")
                return 1
            console.print(f"\nAll {len(_CALLS)} tools answered.", style="bold green")
            if not once:
                console.print(
                    f"Configuration: {folder / 'profiles.toml'}. Still serving; Ctrl-C stops and removes it all."
                )
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.Event().wait()
    return 0
