"""pg-mcp-gateway: one read-only MCP server over several PostgreSQL databases."""

__version__ = "0.1.0"

__all__ = ["__version__"]
