"""The least that the SDK can do: one tool that answers a constant. Imports nothing but the SDK.

Run as a program: without arguments over stdio, with a port over HTTP.
"""

import asyncio
import sys

import mcp_types as types
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

TEXT = '{"columns":["one"],"rows":[[1]]}'
SCHEMA = {"type": "object", "properties": {"query": {"type": "string"}}}


async def list_tools(_context: object, _params: object) -> types.ListToolsResult:
    return types.ListToolsResult(tools=[types.Tool(name="execute_query", description="One.", input_schema=SCHEMA)])


async def call_tool(_context: object, _params: types.CallToolRequestParams) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=TEXT)])


def build() -> Server[object]:
    # With the schema at hand the SDK need not run tools/list before every call over HTTP.
    return Server(
        "bare", get_tool_input_schema={"execute_query": SCHEMA}.get, on_list_tools=list_tools, on_call_tool=call_tool
    )


async def main() -> None:
    server = build()
    if len(sys.argv) > 1:
        import uvicorn

        app = server.streamable_http_app(json_response=True, stateless_http=True)
        config = uvicorn.Config(app, port=int(sys.argv[1]), log_level="warning", access_log=False)
        await uvicorn.Server(config).serve()
        return
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


if __name__ == "__main__":
    asyncio.run(main())
