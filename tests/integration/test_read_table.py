"""`read_table` on real tables: pages by key, whatever the key is made of, and what works without one."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from gateway.app import Gateway
from gateway.errors import BadQuery, Forbidden, InvalidArguments, NotFound, PermissionDenied
from gateway.results import to_json
from tests.support.gateway import call, gateway_over
from tests.support.postgres import Database, Pair, Servers

pytestmark = pytest.mark.anyio

# Key columns and 12 or so rows; what PostgreSQL itself says in key order is what the pages must say.
KEYS: dict[str, tuple[str, str]] = {
    "text": (
        "k text PRIMARY KEY",
        "SELECT unnest(ARRAY['', '''', '\"', '\\', 'NULL', 'null', '{}', E'\\n', 'é', '%', ' ', 'a,b'])",
    ),
    "text_c": ('k text COLLATE "C" PRIMARY KEY', "SELECT unnest(ARRAY['B', 'a', 'Z', 'é', E'\\u0001', ''])"),
    "varchar": ("k varchar(9) PRIMARY KEY", "SELECT unnest(ARRAY['b', 'a ', 'a'])"),
    "bpchar": ("k char(5) PRIMARY KEY", "SELECT unnest(ARRAY['b', 'a', 'ab', 'a b', ''])"),
    "name": ("k name PRIMARY KEY", "SELECT unnest(ARRAY['b', 'A', '']::name[])"),
    "char": ('k "char" PRIMARY KEY', "SELECT unnest(ARRAY['b', 'A', '\\', ' ']::\"char\"[])"),
    "int8": (
        "k int8 PRIMARY KEY",
        "SELECT unnest(ARRAY[-9223372036854775808, 9007199254740993, 9223372036854775807, 0])",
    ),
    "numeric": ("k numeric PRIMARY KEY", "SELECT unnest('{NaN,-1e30,0.1,1.10,12345678901234567890.5}'::numeric[])"),
    "float8": (
        "k float8 PRIMARY KEY",
        "SELECT unnest('{NaN,-Infinity,Infinity,0.1,5e-324,1.7976931348623157e308}'::float8[])",
    ),
    "float4": ("k float4 PRIMARY KEY", "SELECT unnest('{NaN,-Infinity,0.1,16777217}'::float4[])"),
    "bool": ("k bool PRIMARY KEY", "VALUES (true), (false)"),
    "uuid": ("k uuid PRIMARY KEY", "SELECT md5(i::text)::uuid FROM generate_series(1, 9) AS i"),
    "date": (
        "k date PRIMARY KEY",
        "SELECT unnest('{infinity,-infinity,0044-03-15 BC,10000-01-01,2024-02-29}'::date[])",
    ),
    "timestamp": (
        "k timestamp PRIMARY KEY",
        "SELECT unnest('{infinity,-infinity,2024-03-31 02:30,2024-01-01 00:00:00.000001}'::timestamp[])",
    ),
    "timestamptz": (
        "k timestamptz PRIMARY KEY",
        "SELECT timestamptz '2024-10-27 00:00Z' + i * interval '30 min' FROM generate_series(1, 6) AS i",
    ),
    "interval": ("k interval PRIMARY KEY", "SELECT unnest('{1 mon 2 days -3 s,-1 day,1 year,0}'::interval[])"),
    "time": ("k time PRIMARY KEY", "SELECT unnest('{24:00,00:00,23:59:59.999999}'::time[])"),
    "timetz": ("k timetz PRIMARY KEY", "SELECT unnest('{24:00+01,00:00-05,12:00Z}'::timetz[])"),
    "enum": ("k mood PRIMARY KEY", "SELECT unnest(enum_range(NULL::mood))"),
    "domain": ("k short PRIMARY KEY", "SELECT unnest(ARRAY['b', 'a']::short[])"),
    "bytea": ("k bytea PRIMARY KEY", "SELECT unnest(ARRAY['\\x00', '\\xff', '', '\\x5c27']::bytea[])"),
    "inet": ("k inet PRIMARY KEY", "SELECT unnest('{10.0.0.1,10.0.0.0/8,::1}'::inet[])"),
    "bit": ("k bit(3) PRIMARY KEY", "SELECT unnest('{101,001,111}'::bit(3)[])"),
    "varbit": ("k varbit PRIMARY KEY", "SELECT unnest('{101,0,\"\"}'::varbit[])"),
    "array": ("k text[] PRIMARY KEY", "VALUES ('{}'::text[]), ('{a,NULL}'), ('{\"b,c\",\"\\\"\"}'), ('[0:1]={a,b}')"),
    "range": ("k int4range PRIMARY KEY", 'SELECT unnest(\'{empty,"[1,5)","(,)"}\'::int4range[])'),
    "composite": ("k pair PRIMARY KEY", "VALUES ((1, 'x y')::pair), ((1, '\"')::pair), ((0, '')::pair)"),
    "jsonb": (
        "k jsonb PRIMARY KEY",
        'SELECT unnest(\'{"null",1,12345678901234567890,"\\"x\\"","{\\"a\\": [1]}"}\'::jsonb[])',
    ),
    "money": ("k money PRIMARY KEY", "SELECT unnest('{1.00,-5,2}'::money[])"),
    "oid": ("k oid PRIMARY KEY", "SELECT unnest('{4294967295,0,7}'::oid[])"),
    "macaddr": ("k macaddr PRIMARY KEY", "SELECT unnest('{08:00:2b:01:02:03,00:00:00:00:00:01}'::macaddr[])"),
    "pg_lsn": ("k pg_lsn PRIMARY KEY", "SELECT unnest('{0/0,FFFFFFFF/FFFFFFFF}'::pg_lsn[])"),
}
ODD_NAMES = (
    "Upper",
    'quo"ted',
    "dot.ted",
    "spa ce",
    "ünï",
    "'; DROP TABLE orders; --",
    "$1",
    "select",
    'a"."b',
    "x\x01y",
)
ARRANGED = """
CREATE TYPE mood AS ENUM ('z', 'it''s', 'a');
CREATE DOMAIN short AS text CHECK (length(VALUE) < 9);
CREATE TYPE pair AS (a int, b text);
CREATE TABLE composed (b text, "A 1" int, c timestamptz, v text, PRIMARY KEY ("A 1", b, c));
INSERT INTO composed SELECT chr(97 + i % 3), i % 4, timestamptz '2024-01-01Z' + i * interval '1 h', 'v' || i
  FROM generate_series(1, 40) AS i;
CREATE TABLE no_key (a int); INSERT INTO no_key SELECT generate_series(1, 25);
CREATE TABLE unique_key (a int NOT NULL UNIQUE, b int);
INSERT INTO unique_key SELECT 26 - i, i FROM generate_series(1, 25) i;
CREATE TABLE nullable_key (a int UNIQUE); INSERT INTO nullable_key SELECT generate_series(1, 25);
CREATE TABLE deferred_key (a int NOT NULL UNIQUE DEFERRABLE); INSERT INTO deferred_key SELECT generate_series(1, 25);
CREATE TABLE partial_key (a int NOT NULL); INSERT INTO partial_key SELECT 1 FROM generate_series(1, 25);
CREATE UNIQUE INDEX ON partial_key (a) WHERE a > 1;
CREATE TABLE expression_key (a int NOT NULL); INSERT INTO expression_key SELECT generate_series(1, 25);
CREATE UNIQUE INDEX ON expression_key ((a + 1));
CREATE TABLE including (a int NOT NULL, b int); CREATE UNIQUE INDEX ON including (a) INCLUDE (b);
INSERT INTO including SELECT i, NULL FROM generate_series(1, 25) i;
CREATE TABLE parent (id int PRIMARY KEY, v text); CREATE TABLE child () INHERITS (parent);
INSERT INTO parent SELECT i, 'parent' FROM generate_series(1, 10) i;
INSERT INTO child SELECT i, 'child' FROM generate_series(1, 10) i;
CREATE TABLE wide_key (k text PRIMARY KEY, v text);
INSERT INTO wide_key SELECT lpad(i::text, 4, '0'), repeat(chr(1), 8000) FROM generate_series(1, 20) i;
CREATE TABLE nothing (); INSERT INTO nothing DEFAULT VALUES;
CREATE TABLE secret (a int);
CREATE VIEW one_view AS SELECT * FROM unique_key;
CREATE MATERIALIZED VIEW one_matview AS SELECT * FROM unique_key;
"""


@dataclass(frozen=True)
class Arranged:
    gateway: Gateway
    database: Database


@pytest.fixture(scope="module")
async def arranged(servers: Servers) -> AsyncIterator[Arranged]:
    async with servers.copy() as pair:
        async with pair.first.connection() as connection:
            await connection.execute(ARRANGED)
            for name, (column, rows) in KEYS.items():
                await connection.execute(f"CREATE TABLE key_{name} ({column}); INSERT INTO key_{name} {rows}")
            for name in ODD_NAMES:
                quoted = '"' + name.replace('"', '""') + '"'
                await connection.execute(
                    f"CREATE TABLE {quoted} ({quoted} int PRIMARY KEY); INSERT INTO {quoted} VALUES (1), (2)"
                )
            await connection.execute(
                """GRANT SELECT ON ALL TABLES IN SCHEMA public TO gateway_reader;
                REVOKE ALL ON secret FROM gateway_reader"""
            )
        async with gateway_over(pair) as running:
            yield Arranged(running, pair.first)


@pytest.fixture(scope="module")
async def gateway(arranged: Arranged) -> Gateway:
    return arranged.gateway


async def pages(gateway: Gateway, table: str, limit: int) -> list[list[Any]]:
    """Return all rows of a table, read page by page with the `next` of the page before."""
    rows: list[list[Any]] = []
    after = None
    for _ in range(100):
        page = await call(gateway, "read_table", table_name=table, limit=limit, after=after)
        assert len(page["rows"]) == page["row_count"] <= limit
        assert page["truncated"] is ("next" in page)
        rows += page["rows"]
        if not page["truncated"]:
            return rows
        after = page["next"]
    raise AssertionError("the pages do not end")


@pytest.mark.parametrize("name", KEYS)
async def test_pages_by_a_key_of_any_type_give_every_row_once_in_order(arranged: Arranged, name: str) -> None:
    rows = await pages(arranged.gateway, f"key_{name}", limit=1)

    whole = await call(arranged.gateway, "execute_query", query=f"SELECT * FROM key_{name} ORDER BY k")
    assert rows == whole["rows"]
    assert len(rows) > 1


@pytest.mark.parametrize("limit", [1, 3, 7, 39, 40, 41])
async def test_pages_by_a_composite_key_give_every_row_once_in_order(arranged: Arranged, limit: int) -> None:
    rows = await pages(arranged.gateway, "composed", limit=limit)

    whole = await call(arranged.gateway, "execute_query", query='SELECT * FROM composed ORDER BY "A 1", b, c')
    assert rows == whole["rows"]


async def test_next_holds_the_key_of_the_last_row(gateway: Gateway) -> None:
    page = await call(gateway, "read_table", table_name="order_items", limit=3)

    assert page["table"] == "public.order_items"
    assert [int(value) for value in page["next"]] == page["rows"][-1][:2]
    assert "after" in page["hint"]


async def test_pages_are_steady_while_rows_come_and_go(own_databases: Pair) -> None:
    async with own_databases.first.connection() as connection, gateway_over(own_databases) as gateway:
        await connection.execute(
            "CREATE TABLE busy (id int PRIMARY KEY); INSERT INTO busy SELECT 10 * generate_series(1, 30)"
        )
        await connection.execute("GRANT SELECT ON busy TO gateway_reader")
        seen: list[int] = []
        after = None
        while True:
            page = await call(gateway, "read_table", table_name="busy", limit=7, after=after)
            seen += [row[0] for row in page["rows"]]
            if not page["truncated"]:
                break
            after = page["next"]
            # Before and behind the page that comes next.
            await connection.execute("INSERT INTO busy VALUES ($1), ($2)", seen[0] - len(seen), seen[-1] + 5)
            await connection.execute("DELETE FROM busy WHERE id = $1", seen[-1])

    assert [number for number in seen if number % 10 == 0] == [10 * i for i in range(1, 31)]
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize(("limit", "truncated"), [(24, True), (25, False), (26, False)])
async def test_truncated_is_exact_at_the_boundary(gateway: Gateway, limit: int, *, truncated: bool) -> None:
    page = await call(gateway, "read_table", table_name="unique_key", limit=limit)

    assert (page["row_count"], page["truncated"], page.get("truncated_by")) == (
        min(limit, 25),
        truncated,
        "rows" if truncated else None,
    )


async def test_a_unique_index_over_columns_that_are_never_null_serves_as_key(gateway: Gateway) -> None:
    page = await call(gateway, "read_table", table_name="unique_key", limit=2)

    assert page["rows"] == [[1, 25], [2, 24]]
    assert page["next"] == ["2"]


@pytest.mark.parametrize("limit", [5, 10])
async def test_columns_that_an_index_only_includes_are_no_part_of_the_key(gateway: Gateway, limit: int) -> None:
    assert [row[0] for row in await pages(gateway, "including", limit=limit)] == list(range(1, 26))


async def test_a_key_of_a_parent_is_not_trusted_where_children_repeat_it(gateway: Gateway) -> None:
    page = await call(gateway, "read_table", table_name="parent", limit=5)

    assert "next" not in page
    assert page["next_offset"] == 5
    assert len((await call(gateway, "read_table", table_name="parent"))["rows"]) == 20


@pytest.mark.parametrize(
    "table", ["no_key", "nullable_key", "deferred_key", "partial_key", "expression_key", "one_view", "one_matview"]
)
async def test_without_a_key_the_answer_says_so_and_offset_reads_on(gateway: Gateway, table: str) -> None:
    first = await call(gateway, "read_table", table_name=table, limit=20)
    second = await call(gateway, "read_table", table_name=table, limit=20, offset=first["next_offset"])

    assert "order of rows is not fixed" in first["hint"]
    assert "next" not in first
    assert (first["row_count"], second["row_count"], second["truncated"]) == (20, 5, False)


async def test_a_partitioned_table_is_read_by_its_key_across_partitions(gateway: Gateway) -> None:
    rows = await pages(gateway, "events", limit=400)

    assert len(rows) == 1500
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)


async def test_offset_and_after_go_together(gateway: Gateway) -> None:
    page = await call(gateway, "read_table", table_name="unique_key", after=["10"], offset=5, limit=1)

    assert page["rows"][0][0] == 16


async def test_numbers_may_be_given_as_after(gateway: Gateway) -> None:
    assert (await call(gateway, "read_table", table_name="unique_key", after=[10], limit=1))["rows"][0][0] == 11


@pytest.mark.parametrize("name", ODD_NAMES)
async def test_any_name_is_read_as_it_is_written(gateway: Gateway, name: str) -> None:
    page = await call(gateway, "read_table", table_name=name, limit=1)

    assert page["columns"][0]["name"] == name
    assert (page["rows"], page["next"]) == ([[1]], ["1"])


@pytest.mark.parametrize(
    "table_name",
    [
        "orders WHERE 1=1",
        "orders; SELECT 1",
        "orders--",
        "(SELECT 1)",
        "orders, customers",
        '"orders" o',
        "public.orders()",
        "..",
        '"',
        ".",
        '"".""',
    ],
)
async def test_what_is_no_name_is_not_found(gateway: Gateway, table_name: str) -> None:
    with pytest.raises(NotFound):
        await call(gateway, "read_table", table_name=table_name)


async def test_a_wrong_number_of_key_values_is_explained(gateway: Gateway) -> None:
    with pytest.raises(InvalidArguments) as caught:
        await call(gateway, "read_table", table_name="order_items", after=["1"])

    assert "has 1 values, the key of public.order_items has 2" in caught.value.message
    assert "order_id, line_no" in str(caught.value.hint)


async def test_after_on_a_table_without_a_key_is_explained(gateway: Gateway) -> None:
    with pytest.raises(InvalidArguments) as caught:
        await call(gateway, "read_table", table_name="no_key", after=["1"])

    assert "has no key" in caught.value.message


@pytest.mark.parametrize("after", [["x"], [None], [{"a": 1}], [[1]], ["1'; DROP TABLE unique_key; --"], ["9" * 30]])
async def test_an_after_that_is_no_value_of_the_key_is_refused_or_empty(arranged: Arranged, after: list[Any]) -> None:
    rows: list[Any] = []
    with contextlib.suppress(BadQuery, InvalidArguments):
        rows = (await call(arranged.gateway, "read_table", table_name="unique_key", after=after))["rows"]

    assert rows == []
    assert len((await call(arranged.gateway, "read_table", table_name="unique_key"))["rows"]) == 25


async def test_more_rows_than_the_profile_allows_are_refused(gateway: Gateway) -> None:
    with pytest.raises(InvalidArguments) as caught:
        await call(gateway, "read_table", table_name="orders", limit=1001)

    assert "1000" in caught.value.message


async def test_a_page_cut_by_bytes_can_be_read_on(gateway: Gateway) -> None:
    page = await call(gateway, "read_table", table_name="wide_key")

    assert len(to_json(page)) <= 64 * 1024
    assert page["truncated_by"] == "bytes"
    assert [row[0] for row in await pages(gateway, "wide_key", limit=100)] == [f"{i:04}" for i in range(1, 21)]


async def test_a_table_without_columns_has_rows_without_values(gateway: Gateway) -> None:
    page = await call(gateway, "read_table", table_name="nothing")

    assert (page["columns"], page["rows"]) == ([], [[]])


async def test_a_table_that_the_role_may_not_read_is_denied(gateway: Gateway) -> None:
    with pytest.raises(PermissionDenied) as caught:
        await call(gateway, "read_table", table_name="secret")

    assert caught.value.sqlstate == "42501"


async def test_a_schema_that_the_profile_does_not_allow_is_forbidden(databases: Pair) -> None:
    async with gateway_over(databases, schemas=("public",)) as running:
        with pytest.raises(Forbidden):
            await call(running, "read_table", table_name="invoices", schema="billing")


async def test_each_profile_reads_its_own_rows(gateway: Gateway) -> None:
    first = await call(gateway, "read_table", table_name="unique_key", profile="first")
    with pytest.raises(NotFound):
        await call(gateway, "read_table", table_name="unique_key", profile="second")

    assert first["profile"] == "first"


async def test_a_column_added_between_two_pages_shows_at_once(own_databases: Pair) -> None:
    async with own_databases.first.connection() as connection, gateway_over(own_databases) as gateway:
        before = await call(gateway, "read_table", table_name="orders", limit=1)
        await connection.execute("ALTER TABLE orders ADD COLUMN fresh int DEFAULT 7")
        after = await call(gateway, "read_table", table_name="orders", limit=1, after=before["next"])

    assert after["rows"][0] == [2, *after["rows"][0][1:-1], 7]
