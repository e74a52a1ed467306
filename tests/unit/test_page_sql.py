"""The page's SQL as far as it can be seen without a server: parameters, names and what surrounds a caller's text."""

from __future__ import annotations

import re

import pglast
import pytest

from gateway.page_sql import PageColumn, page_sql
from gateway.pg_types import BUILTIN_TYPES, TypeInfo

INT = BUILTIN_TYPES[23]
JSONB = BUILTIN_TYPES[3802]


def columns(*names: str, kind: TypeInfo = INT) -> list[PageColumn]:
    return [PageColumn(name=name, type=kind) for name in names]


@pytest.mark.parametrize(
    "kind", {kind.family: kind for kind in BUILTIN_TYPES.values()}.values(), ids=lambda kind: kind.family
)
@pytest.mark.parametrize("by_name", [False, True])
def test_the_page_of_every_family_is_one_statement(kind: TypeInfo, *, by_name: bool) -> None:
    sql = page_sql("SELECT * FROM t", columns("a", "b", kind=kind), first_param=1, cell_bytes=8192, by_name=by_name)
    assert len(pglast.parse_sql(sql)) == 1


def test_a_trailing_comment_of_the_caller_swallows_nothing() -> None:
    sql = page_sql("SELECT 1 -- the end", columns("a"), first_param=1, cell_bytes=8192)
    assert len(pglast.parse_sql(sql)) == 1


def test_its_parameters_follow_those_of_the_caller() -> None:
    sql = page_sql("SELECT $1, $2", columns("a"), first_param=3, cell_bytes=8192)
    assert [f"${n}" in sql for n in range(1, 7)] == [True, True, True, True, True, False]


@pytest.mark.parametrize("name", ['"', "a b", "'; --", "ü", "t0", "text1"])
def test_names_of_columns_are_quoted(name: str) -> None:
    sql = page_sql("SELECT * FROM t", columns(name, "b", kind=JSONB), first_param=1, cell_bytes=8192, by_name=True)
    assert len(pglast.parse_sql(sql)) == 1


def test_no_name_of_its_own_meets_one_of_the_callers() -> None:
    sql = page_sql("SELECT * FROM t", columns("t0", "text0", kind=JSONB), first_param=1, cell_bytes=8192, by_name=True)
    assert not re.search(r" AS (t0|text0)\b", sql)


@pytest.mark.parametrize("number", [800, 833, 1600])
def test_a_wide_row_keeps_within_what_one_select_may_list(number: int) -> None:
    sql = page_sql(
        "SELECT * FROM t", columns(*(f"c{i}" for i in range(number)), kind=JSONB), first_param=1, cell_bytes=64
    )
    assert sql.count(" AS t") <= 1664 - number


def test_no_columns_are_a_page_of_empty_rows() -> None:
    assert len(pglast.parse_sql(page_sql("SELECT FROM t", [], first_param=1, cell_bytes=8192))) == 1


def test_the_key_is_asked_for_by_place() -> None:
    sql = page_sql("SELECT b, a FROM t", columns("b", "a"), first_param=1, cell_bytes=8192, key=(1,))
    assert "ARRAY[(_q.c1)::text]" in sql
