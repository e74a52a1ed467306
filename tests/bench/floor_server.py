"""The least that a Python MCP server with a database can do: fetch and write JSON, judging and bounding nothing.

Run as a program: `DSN` over stdio, `DSN PORT` over HTTP.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import asyncpg
import mcp_types as types
import orjson
import uvicorn
import uvloop
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

SCHEMA = {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}


async def no_reset(_connection: asyncpg.Connection[Any]) -> None:
    """Leave the session as it is."""


def open_pool(dsn: str) -> Any:
    """Return a pool that never resets, to be entered."""
    return asyncpg.create_pool(dsn, min_size=8, max_size=8, reset=no_reset)


async def fetch_json(pool: asyncpg.Pool[Any], query: str) -> bytes:
    """Return columns once and rows as arrays."""
    rows = await pool.fetch(query)
    columns = list(rows[0].keys()) if rows else []
    return orjson.dumps({"columns": columns, "rows": [list(row.values()) for row in rows]}, default=str)


def build(pool: asyncpg.Pool[Any]) -> Server[Any]:
    async def list_tools(_context: Any, _params: Any) -> types.ListToolsResult:
        return types.ListToolsResult(
            tools=[types.Tool(name="execute_query", description="Run it.", input_schema=SCHEMA)]
        )

    async def call_tool(_context: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        text = await fetch_json(pool, (params.arguments or {})["query"])
        return types.CallToolResult(content=[types.TextContent(text=text.decode())])

    return Server(
        "floor", get_tool_input_schema={"execute_query": SCHEMA}.get, on_list_tools=list_tools, on_call_tool=call_tool
    )


async def main() -> None:
    async with open_pool(sys.argv[1]) as pool:
        server = build(pool)
        if len(sys.argv) > 2:
            app = server.streamable_http_app(json_response=True, stateless_http=True)
            config = uvicorn.Config(app, port=int(sys.argv[2]), log_level="warning", access_log=False)
            await uvicorn.Server(config).serve()
            return
        async with stdio_server() as (read, write):
            await server.run(read, write, server.create_initialization_options())


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
