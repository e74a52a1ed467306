"""What clients see of the tools' arguments, what is made of what they send, and how a table may be named."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from gateway.errors import InvalidArguments
from gateway.results import to_json
from gateway.tools import TOOLS
from gateway.tools.base import Answer, Tool, fit_rows, name_candidates, quoted, split_name

BY_NAME = {tool.name: tool for tool in TOOLS}
READ = BY_NAME["read_table"]
LIST = BY_NAME["list_tables"]
QUERY = BY_NAME["execute_query"]


def refused(tool: Tool, given: dict[str, Any]) -> InvalidArguments:
    with pytest.raises(InvalidArguments) as caught:
        tool.check(given)
    return caught.value


def test_there_are_exactly_six_tools() -> None:
    assert list(BY_NAME) == [
        "list_tables",
        "describe_table",
        "read_table",
        "execute_query",
        "get_table_stats",
        "search_tables",
    ]


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_schemas_are_schemas_and_close_the_list_of_arguments(tool: Tool) -> None:
    for schema in (tool.input_schema(), tool.output_schema()):
        jsonschema.Draft202012Validator.check_schema(schema)
    assert tool.input_schema()["additionalProperties"] is False
    assert list(tool.input_schema()["properties"])[-1] == "profile"


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_every_argument_says_what_it_is(tool: Tool) -> None:
    for argument in tool.input_schema()["properties"].values():
        assert argument["description"]
        assert argument["type"] in ("string", "integer", "array")


def test_the_whole_list_of_tools_is_short() -> None:
    listing = [
        {"name": t.name, "title": t.title, "description": t.description, "inputSchema": t.input_schema()} for t in TOOLS
    ]
    assert len(json.dumps(listing, separators=(",", ":"))) <= 6 * 1024


def test_defaults_of_the_schema_are_those_that_are_used() -> None:
    for tool in TOOLS:
        schema = tool.input_schema()
        required = dict.fromkeys(schema.get("required", []), "x")
        checked = tool.check(required)
        for name, argument in schema["properties"].items():
            if "default" in argument:
                assert checked[name] == argument["default"]


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_null_stands_for_an_argument_that_is_left_out(tool: Tool) -> None:
    schema = tool.input_schema()
    required = dict.fromkeys(schema.get("required", []), "x")
    assert tool.check({**dict.fromkeys(schema["properties"]), **required}) == tool.check(required)


@pytest.mark.parametrize(
    ("given", "message", "hint"),
    [
        ({}, "read_table needs table_name", "Table or view"),
        ({"table_name": None}, "read_table needs table_name", "Table or view"),
        ({"table": "x"}, "read_table has no argument 'table'", "Did you mean table_name? It takes: table_name, schema"),
        ({"table_name": "x", "zzzz": 1}, "read_table has no argument 'zzzz'", "It takes: table_name"),
        ({"table_name": 5}, "read_table: table_name must be a string, not a number", "quotation marks"),
        ({"table_name": ["x"]}, "read_table: table_name must be a string, not an array", "quotation marks"),
        ({"table_name": {}}, "read_table: table_name must be a string, not an object", "quotation marks"),
        ({"table_name": ""}, "read_table: table_name must not be empty", "Table or view"),
        ({"table_name": " \n"}, "read_table: table_name must not be empty", "Table or view"),
        ({"table_name": "x" * 601}, "read_table: table_name has 601 characters, at most 600 are read", "None"),
        ({"table_name": "\ud800"}, "read_table: table_name is not valid Unicode text", "None"),
        ({"table_name": "x", "limit": 0}, "read_table: limit = 0 is below the least, 1", "None"),
        ({"table_name": "x", "limit": 10**9}, "read_table: limit = 1000000000 is above the most, 100000", "pages"),
        ({"table_name": "x", "limit": "ten"}, "read_table: limit must be a whole number, not a string", "None"),
        ({"table_name": "x", "limit": 1.5}, "read_table: limit must be a whole number, not a number", "None"),
        ({"table_name": "x", "limit": True}, "read_table: limit must be a whole number, not a boolean", "None"),
        ({"table_name": "x", "limit": float("nan")}, "read_table: limit must be a whole number, not a number", "None"),
        ({"table_name": "x", "limit": float("inf")}, "read_table: limit must be a whole number, not a number", "None"),
        ({"table_name": "x", "offset": -1}, "read_table: offset = -1 is below the least, 0", "None"),
        ({"table_name": "x", "after": "1"}, "read_table: after must be an array, not a string", '[1, "a"]'),
        ({"table_name": "x", "profile": 1}, "read_table: profile must be a string, not a number", "quotation marks"),
    ],
)
def test_what_does_not_fit_is_told_with_what_to_change(given: dict[str, Any], message: str, hint: str) -> None:
    error = refused(READ, given)
    assert error.message == message
    assert hint in str(error.hint)


@pytest.mark.parametrize("value", [7, 7.0, "7", " 7 "])
def test_a_whole_number_may_come_in_any_dress(value: object) -> None:
    assert READ.check({"table_name": "x", "limit": value})["limit"] == 7


@pytest.mark.parametrize("value", ["²", "٣", "1e3", "0x1", "+1", "1_000"])
def test_text_that_only_looks_like_a_number_is_refused(value: str) -> None:
    error = refused(READ, {"table_name": "x", "limit": value})
    assert "whole number" in error.message


def test_a_nul_is_called_by_its_name() -> None:
    error = refused(QUERY, {"query": "SELECT '\x00'"})
    assert "NUL" in error.message


def test_the_name_of_an_unknown_argument_is_not_repeated_at_any_length() -> None:
    assert len(refused(READ, {"x" * 10_000: 1}).message) < 200


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a", ["a"]),
        ("a.b", ["a", "b"]),
        ('"a.b"', ['"a.b"']),
        ('"a.b".c', ['"a.b"', "c"]),
        ('a."b""c"', ["a", '"b""c"']),
        ('"a""b"."c"', ['"a""b"', '"c"']),
        ('"open.a', ['"open.a']),
        (".", ["", ""]),
        ("a..b", ["a", "", "b"]),
        ("", [""]),
    ],
)
def test_a_name_is_split_at_the_dots_outside_quotation_marks(text: str, parts: list[str]) -> None:
    assert split_name(text) == parts


@pytest.mark.parametrize(
    ("table_name", "schema", "first", "among"),
    [
        ("orders", "public", ("public", "orders"), ("public", "orders")),
        ("Orders", "public", ("public", "Orders"), ("public", "orders")),
        ('"Orders"', "public", ("public", '"Orders"'), ("public", "Orders")),
        ("billing.invoices", "public", ("public", "billing.invoices"), ("billing", "invoices")),
        ("Billing.Invoices", "public", ("public", "Billing.Invoices"), ("billing", "invoices")),
        ('"Billing"."Invoices"', "public", ("public", '"Billing"."Invoices"'), ("Billing", "Invoices")),
        ('Billing."Invoices"', "public", ("public", 'Billing."Invoices"'), ("billing", "Invoices")),
        ("shop.public.orders", "public", ("public", "shop.public.orders"), ("public", "orders")),
        ('"a.b"', "public", ("public", '"a.b"'), ("public", "a.b")),
        ('a."b""c"', "public", ("public", 'a."b""c"'), ("a", 'b"c')),
        ("orders", "PUBLIC", ("PUBLIC", "orders"), ("public", "orders")),
    ],
)
def test_an_exact_name_comes_first_and_what_postgresql_reads_is_among_the_rest(
    table_name: str, schema: str, first: tuple[str, str], among: tuple[str, str]
) -> None:
    pairs = list(zip(*name_candidates(table_name, schema), strict=True))
    assert pairs[0] == first
    assert among in pairs
    assert len(pairs) == len(set(pairs))


def test_an_unquoted_name_in_upper_case_is_sought_exactly_before_it_is_folded() -> None:
    pairs = list(zip(*name_candidates("S.T", "public"), strict=True))
    assert pairs.index(("S", "T")) < pairs.index(("s", "t"))


def test_names_are_quoted_for_sql() -> None:
    assert quoted('a"b', "c.d") == '"a""b"."c.d"'


def answer_of(rows: int, size: int) -> Answer:
    return {"columns": [], "rows": [["x" * size] for _ in range(rows)], "row_count": rows, "truncated": False}


@pytest.mark.parametrize(
    ("rows", "size", "is_cut"), [(0, 1, False), (10, 10, False), (100, 1000, True), (1, 100_000, True)]
)
def test_rows_are_dropped_from_the_end_until_the_answer_fits(rows: int, size: int, *, is_cut: bool) -> None:
    answer = answer_of(rows, size)
    assert fit_rows(answer, 16 * 1024) is is_cut
    assert len(to_json(answer)) <= 16 * 1024
    assert answer["row_count"] == len(answer["rows"]) <= rows
