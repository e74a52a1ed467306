"""`describe_table` on real catalogues: could the next query be written from the answer alone?"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.app import Gateway
from gateway.errors import Forbidden, NotFound
from gateway.results import to_json
from tests.support.gateway import call, gateway_over
from tests.support.postgres import Pair, Servers

pytestmark = pytest.mark.anyio

ODD_NAMES = ("Upper", 'quo"ted', "dot.ted", "spa ce", "ünï", "'; DROP TABLE orders; --", "$1", "select", 'a"."b')
ARRANGED = """
CREATE TYPE mood AS ENUM ('sad', 'ok', 'it''s "fine"');
ALTER TYPE mood ADD VALUE 'so-so' AFTER 'sad';
CREATE DOMAIN feeling AS mood;
CREATE TABLE moods (one mood, many mood[], felt feeling, felts feeling[], plain text);
CREATE TABLE parent (a int GENERATED ALWAYS AS IDENTITY, b int, "C d" text COLLATE "C" DEFAULT 'x''y',
  UNIQUE (b, "C d"));
ALTER TABLE parent DROP COLUMN b CASCADE;
CREATE TABLE locked_down (id int PRIMARY KEY, owner name);
ALTER TABLE locked_down ENABLE ROW LEVEL SECURITY;
ALTER TABLE locked_down FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON locked_down AS RESTRICTIVE FOR SELECT USING (owner = current_user);
CREATE TABLE nothing ();
CREATE TABLE "a.b" (in_public int);
CREATE SCHEMA a; CREATE TABLE a.b (in_a int);
CREATE TABLE MiXeD (folded int); CREATE TABLE "MiXeD" (exact int);
CREATE SCHEMA "S.1"; CREATE TABLE "S.1"."T.1" (odd int);
CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER late AFTER UPDATE ON nothing FOR EACH ROW EXECUTE FUNCTION fails();
ALTER TABLE nothing DISABLE TRIGGER late;
"""


@pytest.fixture(scope="module")
async def gateway(servers: Servers) -> AsyncIterator[Gateway]:
    async with servers.copy() as pair:
        async with pair.first.connection() as connection:
            await connection.execute(ARRANGED)
            for name in ODD_NAMES:
                quoted = '"' + name.replace('"', '""') + '"'
                await connection.execute(f"CREATE TABLE {quoted} (is_{len(name)} int, {quoted} text)")
            wide = ", ".join(f'"{chr(1) * 55}{i:04}" mood' for i in range(1500))
            await connection.execute(f"CREATE TABLE wide ({wide}); COMMENT ON TABLE wide IS 'as wide as can be'")
            for i in range(0, 1500, 10):
                await connection.execute(f"COMMENT ON COLUMN wide.\"{chr(1) * 55}{i:04}\" IS '{'c' * 2000}'")
        async with gateway_over(pair) as running:
            yield running


def columns(answer: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {column["name"]: column for column in answer["columns"]}


async def test_columns_say_type_nullability_default_and_comment(gateway: Gateway) -> None:
    found = columns(await call(gateway, "describe_table", table_name="orders"))

    assert found["id"] == {"name": "id", "type": "bigint", "not_null": True, "identity": "by default"}
    assert found["total"]["type"] == "numeric(12,2)"
    assert found["total"]["default"] == "0"
    assert found["total"]["comment"].startswith("Net, in EUR")
    assert "not_null" not in found["note"]


async def test_columns_come_in_the_order_of_the_table(gateway: Gateway) -> None:
    answer = await call(gateway, "describe_table", table_name="orders")

    assert [column["name"] for column in answer["columns"]][:3] == ["id", "customer_id", "status"]


async def test_columns_of_an_enum_list_its_values_in_order(gateway: Gateway) -> None:
    orders = columns(await call(gateway, "describe_table", table_name="orders"))
    assert orders["status"]["values"] == ["new", "paid", "shipped", "delivered", "cancelled", "returned"]
    assert list(orders["status"])[:3] == ["name", "type", "values"]

    moods = columns(await call(gateway, "describe_table", table_name="moods"))
    expected = ["sad", "so-so", "ok", 'it\'s "fine"']
    assert [moods[name].get("values") for name in ("one", "many", "felt", "felts", "plain")] == [*[expected] * 4, None]


async def test_generated_columns_show_their_expression_and_no_default(gateway: Gateway) -> None:
    vat = columns(await call(gateway, "describe_table", table_name="products"))["price_with_vat"]

    assert "1.19" in vat["generated"]
    assert "default" not in vat


async def test_keys_and_checks_are_named_by_columns(gateway: Gateway) -> None:
    answer = await call(gateway, "describe_table", table_name="order_items")

    assert answer["primary_key"] == ["order_id", "line_no"]
    assert answer["checks"] == ["CHECK ((quantity > 0))"]
    out = {key["references"]: key for key in answer["foreign_keys"]}
    assert out["public.orders"]["columns"] == ["order_id"]
    assert out["public.orders"]["referenced_columns"] == ["id"]
    assert out["public.orders"]["on_delete"] == "cascade"
    assert "on_update" not in out["public.orders"]


async def test_foreign_keys_from_other_schemas_point_in(gateway: Gateway) -> None:
    answer = await call(gateway, "describe_table", table_name="orders")

    assert {"from": "billing.invoices", "columns": ["order_id"], "referenced_columns": ["id"]} in answer[
        "referenced_by"
    ]


async def test_unique_constraints_and_exclusions_are_listed(gateway: Gateway) -> None:
    assert (await call(gateway, "describe_table", table_name="products"))["unique"] == [["sku"]]
    exclusions = (await call(gateway, "describe_table", table_name="promotions"))["exclusions"]
    assert exclusions == ["EXCLUDE USING gist (during WITH &&)"]


async def test_indexes_come_with_definition_and_size(gateway: Gateway) -> None:
    indexes = {i["name"]: i for i in (await call(gateway, "describe_table", table_name="orders"))["indexes"]}

    assert indexes["orders_open_idx"]["definition"].endswith(
        "WHERE (status = ANY (ARRAY['new'::order_status, 'paid'::order_status]))"
    )
    assert indexes["orders_pkey"]["bytes_estimate"] >= 8192
    assert "invalid" not in indexes["orders_pkey"]


async def test_an_invalid_index_is_marked(own_databases: Pair) -> None:
    async with own_databases.first.connection() as connection:
        await connection.execute(
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'orders_open_idx'::regclass"
        )

    async with gateway_over(own_databases) as running:
        answer = await call(running, "describe_table", table_name="orders")

    assert [index["name"] for index in answer["indexes"] if index.get("invalid")] == ["orders_open_idx"]


async def test_a_partitioned_table_shows_its_key_and_the_bounds_of_its_partitions(gateway: Gateway) -> None:
    answer = await call(gateway, "describe_table", table_name="events")

    assert answer["kind"] == "partitioned table"
    assert answer["partition_key"] == "RANGE (occurred_at)"
    assert answer["partition_count"] == 5
    assert {"name": "public.events_other", "bounds": "DEFAULT"} in answer["partitions"]


async def test_a_partition_shows_its_parent_and_bounds(gateway: Gateway) -> None:
    answer = await call(gateway, "describe_table", table_name="events_2025_01")

    assert answer["partition_of"] == "public.events"
    assert answer["bounds"].startswith("FOR VALUES FROM ('2025-01-01")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("customer_revenue", "view"), ("sales_by_day", "materialized view")],
    ids=["view", "materialized"],
)
async def test_views_show_their_definition(gateway: Gateway, name: str, kind: str) -> None:
    answer = await call(gateway, "describe_table", table_name=name)

    assert answer["kind"] == kind
    assert answer["definition"].lstrip().startswith("SELECT")


async def test_triggers_and_whether_they_are_disabled(gateway: Gateway) -> None:
    items = (await call(gateway, "describe_table", table_name="order_items"))["triggers"]
    nothing = (await call(gateway, "describe_table", table_name="nothing"))["triggers"]

    assert [trigger["name"] for trigger in items] == ["order_items_total"]
    assert "EXECUTE FUNCTION refresh_order_total()" in items[0]["definition"]
    assert "disabled" not in items[0]
    assert nothing[0]["disabled"] is True


async def test_row_security_says_who_sees_what(gateway: Gateway) -> None:
    answer = await call(gateway, "describe_table", table_name="locked_down")

    assert answer["row_security"] == "forced"
    assert answer["policies"] == [
        {"name": "own", "command": "select", "using": "(owner = CURRENT_USER)", "restrictive": True}
    ]


async def test_what_is_absent_is_left_out(gateway: Gateway) -> None:
    answer = await call(gateway, "describe_table", table_name="scratch_imports", profile="first")

    assert set(answer) <= {"profile", "schema", "table", "kind", "columns", "rows_estimate", "comment"}


async def test_a_table_without_columns_has_an_empty_list_of_them(gateway: Gateway) -> None:
    assert (await call(gateway, "describe_table", table_name="nothing"))["columns"] == []


async def test_dropped_columns_are_gone_and_collations_are_shown(gateway: Gateway) -> None:
    found = columns(await call(gateway, "describe_table", table_name="parent"))

    assert list(found) == ["a", "C d"]
    assert found["C d"]["collation"] == "C"
    assert found["C d"]["default"] == "'x''y'::text"


@pytest.mark.parametrize("name", ODD_NAMES)
async def test_any_name_is_found_as_it_is_written(gateway: Gateway, name: str) -> None:
    answer = await call(gateway, "describe_table", table_name=name)

    assert answer["table"] == name
    assert [column["name"] for column in answer["columns"]] == [f"is_{len(name)}", name]


@pytest.mark.parametrize(
    ("table_name", "schema", "column"),
    [
        ("orders", None, "id"),
        ("ORDERS", None, "id"),
        ('"orders"', None, "id"),
        ("public.orders", None, "id"),
        ("Public.Orders", None, "id"),
        ('"public"."orders"', "billing", "id"),
        ("shop.public.orders", None, "id"),
        ("billing.payments", None, "id"),
        ("payments", "billing", "id"),
        ("payments", "BILLING", "id"),
        ("billing.payments", "billing", "id"),
        ("a.b", None, "in_public"),
        ('"a.b"', None, "in_public"),
        ('a."b"', None, "in_a"),
        ("mixed", None, "folded"),
        ("MiXeD", None, "exact"),
        ('"MiXeD"', None, "exact"),
        ('"mixed"', None, "folded"),
        ('"S.1"."T.1"', None, "odd"),
        ("T.1", "S.1", "odd"),
        ('"T.1"', "S.1", "odd"),
        ("pg_catalog.pg_class", None, "oid"),
        ("pg_class", "pg_catalog", "oid"),
        ("information_schema.tables", None, "table_catalog"),
    ],
)
async def test_names_are_read_as_postgresql_would_and_exact_ones_come_first(
    gateway: Gateway, table_name: str, schema: str | None, column: str
) -> None:
    answer = await call(gateway, "describe_table", table_name=table_name, schema=schema)

    assert answer["columns"][0]["name"] == column


@pytest.mark.parametrize(
    ("table_name", "near"),
    [
        ("ordrs", "public.orders"),
        ("public.custmers", "public.customers"),
        ("invoice", "billing.invoices"),
        ("Orders2", "public.orders"),
    ],
)
async def test_an_unknown_table_gets_the_nearest_real_ones(gateway: Gateway, table_name: str, near: str) -> None:
    with pytest.raises(NotFound) as caught:
        await call(gateway, "describe_table", table_name=table_name)

    assert table_name.rsplit(".", maxsplit=1)[-1].lower() in caught.value.message.lower()
    assert near in str(caught.value.hint)


async def test_a_table_unlike_all_others_gets_the_way_to_search(gateway: Gateway) -> None:
    with pytest.raises(NotFound) as caught:
        await call(gateway, "describe_table", table_name="zqxjkvwpf")

    assert "search_tables" in str(caught.value.hint)


async def test_a_schema_that_the_profile_does_not_allow_is_forbidden(databases: Pair) -> None:
    async with gateway_over(databases, schemas=("public",)) as running:
        with pytest.raises(Forbidden):
            await call(running, "describe_table", table_name="billing.invoices")


async def test_each_profile_describes_its_own_table(gateway: Gateway) -> None:
    first = columns(await call(gateway, "describe_table", table_name="orders", profile="first"))
    second = columns(await call(gateway, "describe_table", table_name="orders", profile="second"))

    assert ("gift_message" in first, "gift_message" in second) == (False, True)


async def test_a_table_as_wide_as_can_be_fits_into_a_page_and_says_what_is_missing(gateway: Gateway) -> None:
    answer = await call(gateway, "describe_table", table_name="wide")

    assert len(to_json(answer)) <= 64 * 1024
    assert answer["left_out"]
    assert 0 < len(answer["columns"]) < 1500
    assert str(len(answer["columns"])) in answer["hint"]
