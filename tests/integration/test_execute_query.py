"""`execute_query` on a real server: the shape of a page, its bounds, and parameters.

Long because most of it are tables of statements.
"""

from __future__ import annotations

import json
import resource
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from gateway.app import Gateway
from gateway.errors import BadQuery, GatewayError, InvalidArguments, TooLarge, UnsafeSql
from gateway.profiles import Limits
from gateway.results import to_json
from gateway.tools.execute_query import EXECUTE_QUERY
from tests.support.gateway import call, gateway_over
from tests.support.postgres import Pair

pytestmark = pytest.mark.anyio

PAGE_BYTES = 64 * 1024


@pytest.fixture(scope="module")
async def gateway(databases: Pair) -> AsyncIterator[Gateway]:
    async with gateway_over(databases) as running:
        yield running


async def query(gateway: Gateway, sql: str, **arguments: Any) -> dict[str, Any]:
    """Return the answer and see that it fits into a page and is JSON for every reader."""
    _, body = await EXECUTE_QUERY.run(gateway, EXECUTE_QUERY.check({"query": sql, **arguments}))
    text = to_json(body)
    assert len(text) <= PAGE_BYTES
    json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))
    read: dict[str, Any] = orjson.loads(text)
    assert read["row_count"] == len(read["rows"])
    assert all(len(row) == len(read["columns"]) for row in read["rows"])
    return read


async def test_an_answer_names_its_profile_and_its_columns_once(gateway: Gateway) -> None:
    assert await query(gateway, "SELECT 1 AS id, 'x' AS t") == {
        "profile": "first",
        "columns": [{"name": "id", "type": "int4"}, {"name": "t", "type": "text"}],
        "rows": [[1, "x"]],
        "row_count": 1,
        "truncated": False,
    }


async def test_each_profile_reads_its_own_database(databases: Pair, gateway: Gateway) -> None:
    for name, database in zip(("first", "second"), databases, strict=True):
        answer = await query(gateway, "SELECT current_database()", profile=name)
        assert (answer["profile"], answer["rows"]) == (name, [[database.name]])


@pytest.mark.parametrize(
    ("sql", "names"),
    [
        ("SELECT 1 AS a, 2 AS a, 3 AS a", ["a", "a", "a"]),
        ("SELECT 1, 2", ["?column?", "?column?"]),
        ('SELECT 1 AS " ", 2 AS "c0", 3 AS "t0", 4 AS "text0"', [" ", "c0", "t0", "text0"]),
        ('SELECT 1 AS "a""b", 2 AS "x\ny", 3 AS "ü$1", 4 AS "_q", 5 AS "n"', ['a"b', "x\ny", "ü$1", "_q", "n"]),
        ("SELECT * FROM (VALUES (1, 2)) AS v(a, b), (VALUES (3)) AS w(a)", ["a", "b", "a"]),
        ("SELECT a.*, b.* FROM categories a JOIN categories b USING (id) LIMIT 0", ["id", "parent_id", "name"] * 2),
        ("TABLE categories LIMIT 0", ["id", "parent_id", "name"]),
        ("VALUES (1, 'x')", ["column1", "column2"]),
        ("SELECT FROM orders LIMIT 2", []),
    ],
)
async def test_columns_keep_their_names_and_order_whatever_they_are_called(
    gateway: Gateway, sql: str, names: list[str]
) -> None:
    assert [column["name"] for column in (await query(gateway, sql))["columns"]] == names


async def test_zero_columns_still_have_rows(gateway: Gateway) -> None:
    assert (await query(gateway, "SELECT FROM generate_series(1, 3)"))["rows"] == [[], [], []]


async def test_zero_rows_still_have_columns(gateway: Gateway) -> None:
    answer = await query(gateway, "SELECT id, note FROM orders WHERE false")

    assert [column["name"] for column in answer["columns"]] == ["id", "note"]
    assert (answer["rows"], answer["row_count"], answer["truncated"]) == ([], 0, False)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1 -- the end",
        "SELECT 1;",
        "  ;; ".strip(" ;") + "SELECT 1 ; -- x",
        "/* before */ SELECT 1",
        "(SELECT 1)",
        "WITH a AS (SELECT 1 AS x) SELECT x FROM a",
        "SELECT 1 UNION ALL SELECT 2 LIMIT 1",
        "SELECT 1 ORDER BY 1",
        "SELECT 1 LIMIT 1 OFFSET 0",
        "SELECT DISTINCT 1",
    ],
)
async def test_every_way_to_write_a_select_works(gateway: Gateway, sql: str) -> None:
    assert (await query(gateway, sql))["rows"] == [[1]]


@pytest.mark.parametrize(
    ("rows", "limit", "truncated"),
    [
        (0, 1, False),
        (1, 1, False),
        (2, 1, True),
        (99, 100, False),
        (100, 100, False),
        (101, 100, True),
        (1000, 1000, False),
        (1001, 1000, True),
    ],
)
async def test_truncated_is_exact_at_the_boundary(gateway: Gateway, rows: int, limit: int, *, truncated: bool) -> None:
    answer = await query(gateway, f"SELECT i FROM generate_series(1, {rows}) AS i", limit=limit)

    assert answer["row_count"] == min(rows, limit)
    assert answer["truncated"] is truncated
    assert answer.get("truncated_by") == ("rows" if truncated else None)
    assert ("hint" in answer) is truncated


async def test_a_hundred_rows_come_unless_more_are_asked_for(gateway: Gateway) -> None:
    answer = await query(gateway, "SELECT generate_series(1, 1000000) AS i")

    assert (answer["row_count"], answer["truncated_by"]) == (100, "rows")


@pytest.mark.parametrize("limit", [0, -1, 1001, 100_001, 1.5, True, "many"])
async def test_a_limit_that_is_none_is_refused(gateway: Gateway, limit: Any) -> None:
    with pytest.raises(InvalidArguments):
        await query(gateway, "SELECT 1", limit=limit)


@pytest.mark.parametrize(("rows", "truncated"), [(9, False), (10, False), (11, True)])
async def test_a_profiles_own_limit_binds(databases: Pair, rows: int, *, truncated: bool) -> None:
    async with gateway_over(databases, limits=Limits(rows=10)) as running:
        answer = await query(running, f"SELECT generate_series(1, {rows})", limit=10)
        with pytest.raises(InvalidArguments):
            await query(running, "SELECT 1", limit=11)

    assert answer["truncated"] is truncated


WIDE = range(400)
ONE_SMALL = "CASE i WHEN 1 THEN 1 ELSE 8000 END"
ONE_LARGE = "CASE i WHEN 1 THEN 8192 ELSE 1 END"
FLOATS = ", ".join(["1e15::float8"] * 100)
SMALL_FLOATS = ", ".join(["1e-5::float8"] * 100)
ADVERSARIAL = {
    "escapes to six characters": "SELECT repeat(chr(1), 8000) FROM generate_series(1, 100)",
    "quotation marks": "SELECT repeat('\"\\', 4096) FROM generate_series(1, 100)",
    "four bytes a character": "SELECT repeat('😀', 5000) FROM generate_series(1, 100)",
    "two bytes a character": "SELECT repeat('é', 4096) FROM generate_series(1, 100)",
    "many small rows": "SELECT chr(1), i FROM generate_series(1, 1000) AS i",
    "empty rows": "SELECT FROM generate_series(1, 1000)",
    "nulls": f"SELECT {', '.join('NULL' for _ in WIDE)} FROM generate_series(1, 1000)",
    "one row larger than a page": f"SELECT {', '.join('repeat(chr(1), 9000)' for _ in range(20))}",
    "a small row, then a large one": f"SELECT repeat(chr(1), {ONE_SMALL}) FROM generate_series(1, 9) AS i",
    "a large row, then small ones": f"SELECT repeat(chr(1), {ONE_LARGE}) FROM generate_series(1, 1000) AS i",
    "hundreds of long columns": f"SELECT {', '.join(f'repeat(chr(1), 1000) AS c{i}' for i in WIDE)}",
    "hostile names": "SELECT " + ", ".join(f'{i} AS "{chr(1) * 59}{i:04}"' for i in range(120)),
    "arrays": "SELECT ARRAY[repeat(chr(1), 4000), repeat(chr(2), 4000)] FROM generate_series(1, 100)",
    "bytea": "SELECT decode(repeat('ff', 8000), 'hex') FROM generate_series(1, 100)",
    "jsonb": "SELECT jsonb_build_object('a', repeat(chr(1), 1000)) FROM generate_series(1, 100)",
    "json": "SELECT json_build_array(repeat(chr(1), 1000), 'é') FROM generate_series(1, 100)",
    "floats beside json": f"SELECT '{{}}'::json, {FLOATS} FROM generate_series(1, 99)",
    "small floats beside json": f"SELECT '{{}}'::json, {SMALL_FLOATS} FROM generate_series(1, 99)",
    "composites": "SELECT ROW(repeat(chr(1), 4000), repeat('\"', 4000)) FROM generate_series(1, 100)",
    "bit strings": "SELECT repeat('1', 9000)::varbit FROM generate_series(1, 100)",
    "numerics": "SELECT repeat('9', 9000)::numeric FROM generate_series(1, 100)",
    "a plan": "EXPLAIN VERBOSE SELECT '" + "\x01" * 40_000 + "' || i FROM generate_series(1, 2) AS i",
    "a plan in json": "EXPLAIN (VERBOSE, FORMAT JSON) SELECT '"
    + "\x01" * 40_000
    + "' || i FROM generate_series(1, 2) AS i",
    "settings": "SHOW ALL",
    "a million rows": "SELECT i, repeat('x', 100) FROM generate_series(1, 1000000) AS i",
}


@pytest.mark.parametrize("name", ADVERSARIAL)
async def test_a_page_is_never_larger_than_it_may_be(gateway: Gateway, name: str) -> None:
    answer = await query(gateway, ADVERSARIAL[name], limit=1000)

    assert answer["row_count"] > 0
    assert answer["truncated"] is ("truncated_by" in answer)


@pytest.mark.parametrize("page_kb", [4, 16, 256])
async def test_a_profiles_own_page_size_binds(databases: Pair, page_kb: int) -> None:
    async with gateway_over(databases, limits=Limits(page_kb=page_kb)) as running:
        answer = await call(
            running, "execute_query", query="SELECT repeat(chr(1), 50) FROM generate_series(1, 1000)", limit=1000
        )

    size = len(to_json(answer))
    assert page_kb * 1024 - 2500 < size <= page_kb * 1024 or not answer["truncated"]
    assert answer.get("truncated_by", "bytes") == "bytes"


async def test_a_page_is_filled_before_it_is_cut(gateway: Gateway) -> None:
    answer = await query(gateway, "SELECT repeat('x', 1000) FROM generate_series(1, 1000)", limit=1000)

    assert len(to_json(answer)) > PAGE_BYTES - 2500
    assert "full" in answer["hint"]


@pytest.mark.parametrize("length", [8191, 8192, 8193])
async def test_a_value_is_cut_beyond_its_limit_and_marked_with_its_length(gateway: Gateway, length: int) -> None:
    (cell,) = (await query(gateway, f"SELECT repeat('x', {length})"))["rows"][0]

    assert cell == ("x" * length if length <= 8192 else {"$cut": "x" * 8192, "$bytes": length})


@pytest.mark.parametrize(
    ("expression", "size"),
    [
        ("repeat('é', 5000)", 10_000),
        ("decode(repeat('ff', 9000), 'hex')", 9000),
        ("to_jsonb(repeat('x', 9000))", 9002),
        ("to_json(repeat('x', 9000))", 9002),
        ("array_fill(1, ARRAY[9000])", 18_001),
        ("repeat('9', 9000)::numeric", 9000),
        ("repeat('1', 9000)::varbit", 9000),
        ("ROW(repeat('x', 9000))", 9002),
    ],
)
async def test_a_cut_value_of_any_kind_gives_its_whole_length(gateway: Gateway, expression: str, size: int) -> None:
    answer = await query(gateway, f"SELECT {expression}")

    ((cell,),) = answer["rows"]
    assert cell["$bytes"] == size
    assert 0 < len(cell["$cut"].encode()) <= 8192
    assert "substring" in answer["hint"]
    assert answer["truncated"] is False


async def test_data_that_looks_like_the_mark_of_a_cut_value_is_not_one(gateway: Gateway) -> None:
    answer = await query(gateway, """SELECT '{"$cut": "x", "$bytes": 9}'::jsonb, '{"$cut": "x", "$bytes": 9}'::json""")

    assert all(isinstance(cell, str) for cell in answer["rows"][0])
    assert "hint" not in answer


@pytest.mark.parametrize("megabytes", [30, pytest.param(300, marks=pytest.mark.slow)])
async def test_a_huge_value_costs_the_gateway_no_memory(gateway: Gateway, megabytes: int) -> None:
    await query(gateway, "SELECT 1")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    ((cell,),) = (await query(gateway, f"SELECT repeat('x', {megabytes}000000)"))["rows"]

    assert cell == {"$cut": "x" * 8192, "$bytes": megabytes * 1_000_000}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024


@pytest.mark.parametrize("kind", ["int", "text", "jsonb", "numeric"])
async def test_a_row_of_1600_columns_is_read(own_databases: Pair, kind: str) -> None:
    columns = ", ".join(f"c{i} {kind}" for i in range(1600))
    async with own_databases.first.connection() as connection:
        await connection.execute(f"CREATE TABLE wide ({columns}); INSERT INTO wide DEFAULT VALUES")
        await connection.execute("GRANT SELECT ON wide TO gateway_reader")

    async with gateway_over(own_databases) as running:
        answer = await query(running, "SELECT * FROM wide")
        assert answer["rows"] == [[None] * 1600]


async def test_columns_whose_names_alone_fill_a_page_are_refused_with_advice(gateway: Gateway) -> None:
    sql = "SELECT " + ", ".join(f'{i} AS "{chr(1) * 59}{i:04}"' for i in range(1000))

    with pytest.raises(TooLarge) as caught:
        await query(gateway, sql)

    assert "1000 columns" in caught.value.message
    assert "Name the columns" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("sql", "params", "row"),
    [
        ("SELECT $1::int + $2::int", [1, 2], [3]),
        ("SELECT $1", ["x"], ["x"]),
        ("SELECT $1::text", [None], [None]),
        ("SELECT $1::bool, $2::bool", [True, False], [True, False]),
        ("SELECT $1::int8", ["9007199254740993"], ["9007199254740993"]),
        ("SELECT $1::int8", [9007199254740993], ["9007199254740993"]),
        ("SELECT $1::numeric", [1.5], [1.5]),
        ("SELECT $1::float8", ["NaN"], ["NaN"]),
        ("SELECT $1::date", ["2024-02-29"], ["2024-02-29"]),
        ("SELECT $1::jsonb", [{"a": [1, None]}], [{"a": [1, None]}]),
        ("SELECT $1::jsonb", ['"text"'], ['"text"']),
        ("SELECT $1::text[]", [["a", None, 'b",\\']], [["a", None, 'b",\\']]),
        ("SELECT $1::int[]", [[[1, 2], [3, 4]]], [[[1, 2], [3, 4]]]),
        ("SELECT $1::int[]", ["{1,2}"], [[1, 2]]),
        ("SELECT $1::jsonb[]", [["{}", None]], ['{"{}",NULL}']),
        ("SELECT id FROM orders WHERE status = $1 AND id < $2 ORDER BY id LIMIT 1", ["paid", 1000], None),
        ("SELECT $1::text", ["'; DROP TABLE orders; --"], ["'; DROP TABLE orders; --"]),
        ("SELECT $2::text, $1::text", ["a", "b"], ["b", "a"]),
        ("SELECT count(*) FROM orders WHERE id = ANY($1::bigint[])", [[1, 2, 3]], [3]),
    ],
)
async def test_parameters_are_bound_by_the_server(
    gateway: Gateway, sql: str, params: list[Any], row: list[Any] | None
) -> None:
    (found,) = (await query(gateway, sql, params=params))["rows"]

    assert row is None or found == row


@pytest.mark.parametrize(
    ("sql", "params"),
    [
        ("SELECT $1::int", []),
        ("SELECT $1::int", [1, 2]),
        ("SELECT 1", [1]),
        ("SELECT $2::int", [1]),
        ("SELECT $1::int", ["x"]),
        ("SELECT $1::int", [{}]),
        ("SELECT $1::int[]", [[1, [2]]]),
        ("SELECT $1::text", ["\x00"]),
        ("SELECT $1::text", ["\ud800"]),
        ("SELECT $1::date", [[]]),
    ],
)
async def test_parameters_that_do_not_fit_are_the_callers_error(gateway: Gateway, sql: str, params: list[Any]) -> None:
    with pytest.raises((InvalidArguments, BadQuery)) as caught:
        await query(gateway, sql, params=params)

    assert caught.value.profile == "first"
    assert (await query(gateway, "SELECT 1"))["rows"] == [[1]]


@pytest.mark.parametrize(
    "sql",
    [
        "",
        "   ",
        ";",
        "--",
        "SELECT 1; SELECT 2",
        "SELEC 1",
        "SELECT (",
        "DELETE FROM orders",
        "SELECT 1 INTO x",
        "BEGIN",
        "\x00",
        "🙂",
    ],
)
async def test_what_is_not_one_select_is_refused_before_the_database_sees_it(gateway: Gateway, sql: str) -> None:
    with pytest.raises((InvalidArguments, BadQuery, UnsafeSql)):
        await query(gateway, sql)


async def test_a_schema_change_between_two_calls_shows_at_once(own_databases: Pair) -> None:
    async with own_databases.first.connection() as connection, gateway_over(own_databases) as running:
        await connection.execute("CREATE TABLE changing (a int, b text); INSERT INTO changing VALUES (1, 'x')")
        await connection.execute("GRANT SELECT ON changing TO gateway_reader")
        seen = []
        for change in (
            "SELECT 1",
            "ALTER TABLE changing ADD COLUMN c int DEFAULT 3",
            "ALTER TABLE changing DROP COLUMN b",
            "ALTER TABLE changing RENAME COLUMN c TO d",
        ):
            await connection.execute(change)
            answer = await query(running, "SELECT * FROM changing")
            seen.append(([column["name"] for column in answer["columns"]], answer["rows"]))

    assert seen == [
        (["a", "b"], [[1, "x"]]),
        (["a", "b", "c"], [[1, "x", 3]]),
        (["a", "c"], [[1, 3]]),
        (["a", "d"], [[1, 3]]),
    ]


async def test_a_dropped_table_is_said_to_be_gone(own_databases: Pair) -> None:
    async with own_databases.first.connection() as connection, gateway_over(own_databases) as running:
        await query(running, "SELECT id, note FROM orders LIMIT 1")
        await connection.execute("DROP TABLE orders CASCADE")
        with pytest.raises(GatewayError) as caught:
            await query(running, "SELECT id, note FROM orders LIMIT 1")

    assert (caught.value.code, caught.value.sqlstate, caught.value.position) == ("not_found", "42P01", 22)


async def test_an_expression_is_computed_once_a_row(own_databases: Pair) -> None:
    async with own_databases.first.connection() as connection, gateway_over(own_databases) as running:
        await connection.execute(
            """CREATE FUNCTION costly(i int) RETURNS text LANGUAGE plpgsql STABLE AS $$
            BEGIN RAISE LOG 'costly % was called', i; RETURN repeat('x', 10 * i); END $$;
            GRANT EXECUTE ON FUNCTION costly TO PUBLIC"""
        )
        before = len(own_databases.first.server.log)
        await query(running, "SELECT costly(i), ARRAY[costly(-i)] FROM generate_series(1, 3) AS i")

    assert own_databases.first.server.log[before:].count("was called") == 6
