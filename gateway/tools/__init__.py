"""The six tools, in the order in which clients see them."""

from typing import Final

from gateway.tools.base import Tool
from gateway.tools.describe_table import DESCRIBE_TABLE
from gateway.tools.execute_query import EXECUTE_QUERY
from gateway.tools.get_table_stats import GET_TABLE_STATS
from gateway.tools.list_tables import LIST_TABLES
from gateway.tools.read_table import READ_TABLE
from gateway.tools.search_tables import SEARCH_TABLES

TOOLS: Final[tuple[Tool, ...]] = (
    LIST_TABLES,
    DESCRIBE_TABLE,
    READ_TABLE,
    EXECUTE_QUERY,
    GET_TABLE_STATS,
    SEARCH_TABLES,
)
