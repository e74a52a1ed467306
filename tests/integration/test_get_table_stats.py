"""`get_table_stats` on real tables: which number is exact, which is an estimate, and what is unknown."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from gateway.app import Gateway
from gateway.errors import Forbidden, NotFound
from gateway.results import to_json
from tests.support.gateway import call, gateway_over
from tests.support.postgres import Database, Pair, Servers

pytestmark = pytest.mark.anyio

ARRANGED = """
CREATE TABLE empty (a int);
CREATE TABLE fresh WITH (autovacuum_enabled = off) AS SELECT generate_series(1, 321) AS a;
CREATE TABLE churn (a int PRIMARY KEY, b text) WITH (autovacuum_enabled = off);
INSERT INTO churn SELECT i, CASE WHEN i % 4 = 0 THEN 'x' END FROM generate_series(1, 1000) AS i;
DELETE FROM churn WHERE a <= 100;
UPDATE churn SET b = 'y' WHERE a BETWEEN 101 AND 150;
CREATE TABLE big WITH (autovacuum_enabled = off) AS
  SELECT i, repeat('x', 500) AS filler FROM generate_series(1, 20000) AS i;
ANALYZE big;
CREATE TABLE big_unknown WITH (autovacuum_enabled = off) AS SELECT * FROM big;
CREATE TABLE toasted AS SELECT i, string_agg(md5(i::text || j), '') AS t FROM generate_series(1, 20) i,
  generate_series(1, 500) j GROUP BY i;
CREATE VIEW breaks AS SELECT a FROM fresh WHERE 1 / (a - a) > 0;
CREATE VIEW slow AS SELECT count(*) FROM generate_series(1, 100000) a, generate_series(1, 100000) b;
CREATE TABLE secret (a int);
CREATE TABLE parts (a int) PARTITION BY LIST (a);
CREATE VIEW over_secret AS SELECT * FROM fresh;
CREATE TABLE "Odd ""na.me" AS SELECT 1 AS x;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO gateway_reader;
REVOKE ALL ON secret FROM gateway_reader;
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
            await connection.execute("VACUUM (ANALYZE) churn")
            wide = ", ".join(f'"{chr(1) * 55}{i:04}" int' for i in range(300))
            await connection.execute(f"CREATE TABLE wide ({wide}); INSERT INTO wide DEFAULT VALUES; ANALYZE wide")
            await connection.execute("GRANT SELECT ON wide TO gateway_reader")
        async with gateway_over(pair) as running:
            yield Arranged(running, pair.first)


@pytest.fixture(scope="module")
async def gateway(arranged: Arranged) -> Gateway:
    return arranged.gateway


async def test_a_small_table_is_counted(gateway: Gateway) -> None:
    answer = await call(gateway, "get_table_stats", table_name="orders")

    assert (answer["rows"], answer["profile"], answer["kind"]) == (1000, "first", "table")
    assert "rows_estimate" not in answer


@pytest.mark.parametrize(("name", "rows"), [("fresh", 321), ("empty", 0)])
async def test_a_small_table_without_statistics_is_counted(gateway: Gateway, name: str, rows: int) -> None:
    assert (await call(gateway, "get_table_stats", table_name=name))["rows"] == rows


async def test_a_large_table_is_estimated(gateway: Gateway) -> None:
    answer = await call(gateway, "get_table_stats", table_name="big")

    assert answer["rows_estimate"] == 20_000
    assert "rows" not in answer


async def test_a_large_table_that_was_never_analyzed_is_counted_if_that_is_quick(gateway: Gateway) -> None:
    answer = await call(gateway, "get_table_stats", table_name="big_unknown")

    assert answer["rows"] == 20_000


async def test_sizes_are_those_of_the_server(arranged: Arranged) -> None:
    answer = await call(arranged.gateway, "get_table_stats", table_name="toasted")

    async with arranged.database.connection() as connection:
        row = await connection.fetchrow(
            """SELECT pg_relation_size(oid), pg_indexes_size(oid), pg_total_relation_size(reltoastrelid),
               pg_total_relation_size(oid) FROM pg_class WHERE relname = 'toasted'"""
        )
    assert row is not None
    assert answer["bytes"] == dict(zip(("heap", "indexes", "toast", "total"), row, strict=True))
    assert answer["bytes"]["toast"] > 0


async def test_dead_rows_changes_and_scans_are_told(arranged: Arranged) -> None:
    async with arranged.database.connection() as connection:
        await connection.execute("DELETE FROM churn WHERE a > 990")
        await connection.fetch("SELECT * FROM churn WHERE a = 500")

    answer = await call(arranged.gateway, "get_table_stats", table_name="churn")

    assert answer["rows"] == 890
    assert set(answer["scans"]) == {"sequential", "index"}
    assert answer["last_vacuum"].endswith("Z")
    assert answer["last_analyze"].endswith("Z")


async def test_columns_say_how_many_values_are_null_and_distinct(gateway: Gateway) -> None:
    answer = await call(gateway, "get_table_stats", table_name="orders")

    stats = {column["name"]: column for column in answer["column_stats"]}
    assert stats["id"]["distinct_fraction"] == 1
    assert stats["status"]["distinct"] == 6
    assert 0.5 < stats["note"]["null_fraction"] < 1
    assert answer["column_types"]["timestamp with time zone"] == 2


async def test_indexes_say_how_often_they_are_used(gateway: Gateway) -> None:
    answer = await call(gateway, "get_table_stats", table_name="orders")

    assert {index["name"] for index in answer["indexes"]} == {
        "orders_pkey",
        "orders_customer_id_idx",
        "orders_open_idx",
    }


async def test_a_partitioned_table_is_the_sum_of_its_partitions(gateway: Gateway) -> None:
    answer = await call(gateway, "get_table_stats", table_name="events")

    assert (answer["rows"], answer["partitions"]) == (1500, 5)
    assert answer["bytes"]["total"] > 5 * 8192


async def test_a_partitioned_table_without_partitions_is_empty(gateway: Gateway) -> None:
    answer = await call(gateway, "get_table_stats", table_name="parts")

    assert (answer["rows"], answer["partitions"]) == (0, 0)


async def test_a_view_is_counted_and_has_no_size(gateway: Gateway) -> None:
    answer = await call(gateway, "get_table_stats", table_name="customer_revenue")

    assert answer["rows"] == 100
    assert "bytes" not in answer


@pytest.mark.parametrize(
    ("name", "reason"), [("breaks", "division by zero"), ("slow", "takes too long")], ids=["breaks", "slow"]
)
async def test_a_view_that_cannot_be_counted_says_why(gateway: Gateway, name: str, reason: str) -> None:
    answer = await call(gateway, "get_table_stats", table_name=name)

    assert "rows" not in answer
    assert reason in answer["hint"]


async def test_a_table_that_the_role_may_not_read_says_so(gateway: Gateway) -> None:
    answer = await call(gateway, "get_table_stats", table_name="secret")

    assert "rows" not in answer
    assert "may not read" in answer["hint"]


async def test_odd_names_are_found(gateway: Gateway) -> None:
    answer = await call(gateway, "get_table_stats", table_name='Odd "na.me')

    assert (answer["table"], answer["rows"]) == ('Odd "na.me', 1)


async def test_an_unknown_table_gets_the_nearest_real_ones(gateway: Gateway) -> None:
    with pytest.raises(NotFound) as caught:
        await call(gateway, "get_table_stats", table_name="ordres")

    assert "public.orders" in str(caught.value.hint)


async def test_each_profile_has_its_own_numbers(gateway: Gateway) -> None:
    assert (await call(gateway, "get_table_stats", table_name="fresh", profile="first"))["rows"] == 321
    with pytest.raises(NotFound) as caught:
        await call(gateway, "get_table_stats", table_name="fresh", profile="second")
    assert caught.value.profile == "second"


async def test_a_schema_that_the_profile_does_not_allow_is_forbidden(databases: Pair) -> None:
    async with gateway_over(databases, schemas=("public",)) as running:
        with pytest.raises(Forbidden):
            await call(running, "get_table_stats", table_name="billing.invoices")


async def test_a_wide_table_fits_into_a_page_and_says_what_is_missing(gateway: Gateway) -> None:
    answer = await call(gateway, "get_table_stats", table_name="wide")

    assert len(to_json(answer)) <= 64 * 1024
    assert answer["left_out"] == ["column_stats"]
    assert answer["column_stats"]
