"""Every type and extreme value arrives so that it can be cast back to an equal one; see docs/values.md.

Each type's samples stand in a table of their own in both databases; what a client reads of them is turned back into
text by the rules of the page and compared in the database. Long because the reader of those rules stands here as well,
independent of the gateway.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import asyncpg
import orjson
import pytest

from gateway.app import Gateway
from gateway.pg_types import BUILTIN_TYPES
from gateway.results import to_json
from gateway.tools.execute_query import EXECUTE_QUERY
from tests.support.gateway import gateway_over
from tests.support.postgres import Database, Pair, Servers
from tests.support.value_samples import (
    EXTENSIONS,
    FROM_CATALOGUES,
    NEVER_A_VALUE,
    NEWER,
    OF_USERS,
    SAMPLES,
    SHAPES,
)

pytestmark = pytest.mark.anyio

# Session settings that change how values are written, as an administrator may have set them for the role.
ROLE_SETTINGS = {
    "plain": {},
    "odd": {
        "timezone": "Asia/Kolkata",
        "datestyle": "SQL, DMY",
        "intervalstyle": "iso_8601",
        "bytea_output": "escape",
        "extra_float_digits": "-15",
    },
    "old": {
        "timezone": "America/St_Johns",
        "datestyle": "German",
        "intervalstyle": "sql_standard",
        "xmloption": "document",
        "quote_all_identifiers": "on",
        "array_nulls": "off",
    },
    "ancient": {"standard_conforming_strings": "off"},
}


@dataclass(frozen=True)
class Number:
    """A number of an answer as it was written."""

    text: str


@dataclass(frozen=True)
class Object:
    """An object of an answer, with repeated keys if it has them."""

    pairs: tuple[tuple[str, Any], ...]


def strict(text: bytes) -> Any:
    """Parse JSON that is JSON by every reader's standard, numbers as they were written."""

    def refuse(constant: str) -> Any:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(
        text,
        parse_constant=refuse,
        parse_int=Number,
        parse_float=Number,
        object_pairs_hook=lambda pairs: Object(tuple(pairs)),
    )


def numbers(value: Any) -> list[Number]:
    match value:
        case Number():
            return [value]
        case Object(pairs):
            return [number for _, item in pairs for number in numbers(item)]
        case list():
            return [number for item in value for number in numbers(item)]
        case _:
            return []


def survives_a_double(number: Number) -> bool:
    """Say whether a reader that keeps numbers as doubles writes back the same one."""
    return Decimal(repr(float(number.text))) == Decimal(number.text)


def as_json(value: Any) -> str:
    match value:
        case Number(text):
            return text
        case Object(pairs):
            return "{" + ",".join(f"{json.dumps(key)}:{as_json(item)}" for key, item in pairs) + "}"
        case list():
            return "[" + ",".join(map(as_json, value)) + "]"
        case _:
            return json.dumps(value)


def as_literal(value: Any, column: dict[str, str]) -> str | None:
    """Return the text that PostgreSQL reads, by the rules of docs/values.md."""
    if value is None:
        return None
    if column["type"] in ("json", "jsonb"):
        return value if isinstance(value, str) else as_json(value)
    if column.get("encoding") == "base64":
        return "\\x" + base64.b64decode(value, validate=True).hex()
    return as_text(value)


def as_text(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case Number(text):
            return text
        case str():
            return value
        case list():
            return "{" + ",".join(as_element(item) for item in value) + "}"
        case _:
            raise AssertionError(f"{value!r} is no value of a cell")


def as_element(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, list):
        return as_text(value)
    return '"' + as_text(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


@dataclass(frozen=True)
class Table:
    """A table of samples in column `v`, numbered in column `n`."""

    name: str
    type: str
    has_equal: bool
    reads_text: bool = True


async def answer(gateway: Gateway, query: str, **arguments: Any) -> tuple[list[dict[str, str]], list[list[Any]]]:
    """Return columns and rows of a query's answer, parsed strictly."""
    _, body = await EXECUTE_QUERY.run(gateway, EXECUTE_QUERY.check({"query": query, "limit": 500, **arguments}))
    text = to_json(body)
    assert len(text) <= 64 * 1024
    read = dict(strict(text).pairs)
    assert not [number for number in numbers(read["rows"]) if not survives_a_double(number)]
    return [dict(column.pairs) for column in read["columns"]], read["rows"]


def same_json(one: str, other: str) -> bool:
    """Say whether two JSON texts say the same: order and repetition of keys included, white space aside."""

    def normal(value: Any) -> Any:
        match value:
            case Number(text):
                return Decimal(text)
            case Object(pairs):
                return Object(tuple((key, normal(item)) for key, item in pairs))
            case list():
                return [normal(item) for item in value]
            case _:
                return value

    return bool(normal(strict(one.encode())) == normal(strict(other.encode())))


async def differences(gateway: Gateway, connection: asyncpg.Connection[Any], table: Table) -> list[str]:
    """Return what does not come back as it is stored."""
    columns, rows = await answer(gateway, f"SELECT n, v FROM {table.name} ORDER BY n")
    came = {int(n.text): (value, as_literal(value, columns[1])) for n, value in rows}
    if not table.reads_text:
        stored = await connection.fetch(f"SELECT n, v::text FROM {table.name}")
        return [f"{text} came as {came[n][0]!r}" for n, text in stored if came.pop(n)[1] != text]
    casts = (f"({n}, {'NULL' if text is None else quote_literal(text)}::{table.type})" for n, (_, text) in came.items())
    equal = "v IS NOT DISTINCT FROM w" if table.has_equal else "v::text IS NOT DISTINCT FROM w::text"
    compared = await connection.fetch(
        f"SELECT n, v::text AS stored, {equal} AS same FROM {table.name} "
        f"LEFT JOIN (VALUES {', '.join(casts)}) AS c(n, w) USING (n)"
    )
    wrong = []
    for n, stored, same in compared:
        value, text = came[n]
        # Where the JSON of a json column is embedded, white space may differ.
        is_embedded = table.type == '"json"' and stored is not None and not isinstance(value, str)
        if not (text is not None and same_json(stored, text) if is_embedded else same):
            wrong.append(f"{str(stored)[:80]} came as {str(value)[:80]!r}")
    return wrong


async def fill(connection: asyncpg.Connection[Any], name: str, kind: str, expressions: list[str]) -> Table:
    """Create the table of a type and return it."""
    values = "".join(f", ({n}, {expression})" for n, expression in enumerate(expressions, start=1))
    await connection.execute(f"CREATE TABLE {name} (n int, v {kind}); INSERT INTO {name} VALUES (0, NULL){values}")
    has_equal = await connection.fetchval(
        """SELECT EXISTS (SELECT FROM pg_operator
           WHERE oprname = '=' AND oprleft = $1::text::regtype AND oprright = oprleft)""",
        kind,
    )
    return Table(name, kind, bool(has_equal))


async def can_read(connection: asyncpg.Connection[Any], query: str) -> bool:
    try:
        await connection.execute(query)
    except asyncpg.FeatureNotSupportedError:
        return False
    return True


def quote_literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"E'{escaped}'"


async def fill_all(database: Database) -> dict[str, Table]:
    """Create the tables of all types that the server has, by the type's name."""
    tables: dict[str, Table] = {}
    async with database.connection() as connection:
        version = connection.get_server_version().major
        has = {
            row[0]
            for row in await connection.fetch(
                "SELECT typname FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace"
            )
        }
        await connection.execute(
            """CREATE STATISTICS kinds (ndistinct, dependencies, mcv) ON full_name, newsletter FROM customers;
            ANALYZE customers"""
        )
        await connection.execute('CREATE TABLE "odd ""name"".x" ()')
        for i, (kind, samples) in enumerate((k, s) for k, s in SAMPLES.items() if k in has):
            if kind == "xml" and not await can_read(connection, "SELECT '<a/>'::xml"):
                continue  # built without libxml
            given = [s for s in samples if NEWER.get((kind, s), 0) <= version]
            # In quotation marks a name stands for the type itself: bit alone is bit(1).
            quoted = f'"{kind}"'
            cast = [f"{quote_literal(s)}::{quoted}" for s in given]
            tables[kind] = await fill(connection, f"t{i}", quoted, cast)
            shapes = [
                shaped(shape, given[k % len(given)], delimiter=";" if kind == "box" else ",")
                for k, shape in enumerate((*SHAPES, *(["{%}"] * len(given))))
            ]
            tables[f"{kind}[]"] = await fill(connection, f"a{i}", f"{quoted}[]", shapes)
        for kind, query in FROM_CATALOGUES.items():
            tables[kind] = Table(f"f_{kind}", kind, has_equal=False, reads_text=False)
            await connection.execute(
                f"CREATE TABLE f_{kind} AS SELECT row_number() OVER () AS n, v FROM ({query}) AS q(v)"
            )
        for i, (kind, (ddl, expressions)) in enumerate(OF_USERS.items()):
            await connection.execute(ddl)
            quoted = '"' + kind.replace('"', '""') + '"'
            tables[kind] = await fill(connection, f"u{i}", quoted, list(expressions))
            array = [f"ARRAY[{e}, NULL]::{quoted}[]" for e in expressions] + ["'{}'"]
            tables[f"{kind}[]"] = await fill(connection, f"ua{i}", f"{quoted}[]", array)
        known = {row[0] for row in await connection.fetch("SELECT name FROM pg_available_extensions")}
        for extension, (kind, samples) in EXTENSIONS.items():
            if extension in known:
                await connection.execute(f"CREATE EXTENSION {extension}")
                tables[kind] = await fill(connection, f"e_{kind}", kind, [quote_literal(s) for s in samples])
                tables[f"{kind}[]"] = await fill(
                    connection, f"ea_{kind}", f"{kind}[]", [shaped("{%,NULL}", s) for s in samples]
                )
    return tables


def shaped(shape: str, sample: str, *, delimiter: str = ",") -> str:
    """Return the array literal of that shape around the sample."""
    element = '"' + sample.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return quote_literal(shape.replace(",", delimiter).replace("%", element))


ALL_NAMES = [
    *(name for kind in (*SAMPLES, *OF_USERS, *(k for k, _ in EXTENSIONS.values())) for name in (kind, f"{kind}[]")),
    *FROM_CATALOGUES,
]


@dataclass(frozen=True)
class Filled:
    pair: Pair
    tables: dict[str, Table]


@pytest.fixture(scope="module")
async def filled(servers: Servers) -> AsyncIterator[Filled]:
    async with servers.copy() as pair:
        yield Filled(pair, await fill_all(pair.first))


@pytest.fixture(scope="module")
async def gateway(filled: Filled) -> AsyncIterator[Gateway]:
    async with gateway_over(filled.pair, as_superuser=True) as running:
        yield running


@pytest.fixture(scope="module")
async def judge(filled: Filled) -> AsyncIterator[asyncpg.Connection[Any]]:
    """Give a connection that compares, with the settings that PostgreSQL comes with."""
    async with filled.pair.first.connection() as connection:
        await connection.execute(
            "SET timezone = 'UTC'; SET datestyle = 'ISO, MDY'; SET intervalstyle = 'postgres';"
            "SET bytea_output = 'hex';"
            "SET extra_float_digits = 1; SET xmloption = content; SET standard_conforming_strings = on;"
            "SET quote_all_identifiers = off"
        )
        yield connection


@pytest.mark.parametrize("name", ALL_NAMES)
async def test_every_value_of_a_type_comes_back_equal(
    filled: Filled, gateway: Gateway, judge: asyncpg.Connection[Any], name: str
) -> None:
    if name not in filled.tables:
        pytest.skip(f"this server has no type {name}")
    assert await differences(gateway, judge, filled.tables[name]) == []


@pytest.mark.parametrize("settings", ROLE_SETTINGS)
async def test_settings_of_the_role_do_not_change_what_comes_back(
    filled: Filled, judge: asyncpg.Connection[Any], settings: str
) -> None:
    database = filled.pair.first
    role = f"ROLE {database.superuser} IN DATABASE {database.name}"
    for name, value in ROLE_SETTINGS[settings].items():
        await judge.execute(f"ALTER {role} SET {name} = '{value}'")

    try:
        async with gateway_over(filled.pair, as_superuser=True) as fresh:
            wrong = {name: await differences(fresh, judge, table) for name, table in filled.tables.items()}
    finally:
        await judge.execute(f"ALTER {role} RESET ALL")

    assert {name: found for name, found in wrong.items() if found} == {}


async def test_every_type_of_the_server_has_samples(judge: asyncpg.Connection[Any]) -> None:
    # Arrays are tried with their elements; composite types of the catalogues are rows of tables, tried below.
    types = await judge.fetch(
        """SELECT typname FROM pg_type AS t
           WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype NOT IN ('p', 'c')
           AND NOT EXISTS (SELECT FROM pg_type AS e WHERE e.typarray = t.oid)"""
    )
    considered = SAMPLES.keys() | FROM_CATALOGUES.keys() | NEVER_A_VALUE
    assert {row[0] for row in types} - considered == set()


async def test_the_table_of_built_in_types_is_that_of_the_server(judge: asyncpg.Connection[Any]) -> None:
    types = await judge.fetch(
        """SELECT t.oid::int8, coalesce(e.typname || '[]', t.typname) FROM pg_type AS t
           LEFT JOIN pg_type AS e ON e.typarray = t.oid
           WHERE t.typnamespace = 'pg_catalog'::regnamespace AND t.typtype <> 'c' AND coalesce(e.typtype, 'b') <> 'c'
           AND (t.typtype <> 'p'
             OR t.typname IN ('record', '_record', 'cstring', '_cstring', 'anyarray', 'void', 'unknown'))"""
    )
    known = {oid: kind.name for oid, kind in BUILTIN_TYPES.items()}
    assert {oid: name for oid, name in types if known.get(oid) != name} == {}


async def test_rows_of_catalogues_come_as_postgresql_writes_them(
    gateway: Gateway, judge: asyncpg.Connection[Any]
) -> None:
    # No driver decodes these: a row as one value, and statistics whose element type varies.
    for query in (
        "SELECT t AS v FROM pg_type AS t ORDER BY oid LIMIT 5",
        "SELECT a AS v FROM pg_attribute AS a WHERE attrelid = 'pg_class'::regclass ORDER BY attnum LIMIT 5",
        "SELECT most_common_vals AS v FROM pg_stats WHERE tablename = 'pg_type' ORDER BY attname",
        "SELECT ROW(1, 'a', NULL, ROW('x y')) AS v",
        "SELECT ARRAY[ROW(1, 'a'), ROW(2, NULL)] AS v",
        "SELECT ROW(NULL, NULL) AS v",
    ):
        columns, rows = await answer(gateway, query)
        expected = await judge.fetch(f"SELECT format('%s', v), num_nulls(v) = 1 FROM ({query}) AS q")
        assert [as_literal(row[0], columns[0]) for row in rows] == [
            None if is_null else text for text, is_null in expected
        ]


async def test_a_value_that_was_read_can_be_sent_back_as_a_parameter(filled: Filled, gateway: Gateway) -> None:
    lost: dict[str, list[Any]] = {}
    for name, table in filled.tables.items():
        if not table.reads_text or not table.has_equal or name == "bytea":
            continue
        _, body = await EXECUTE_QUERY.run(
            gateway, EXECUTE_QUERY.check({"query": f"SELECT n, v FROM {table.name} WHERE n > 0 ORDER BY n LIMIT 4"})
        )
        for n, value in orjson.loads(to_json(body))["rows"]:
            query = f"SELECT v IS NOT DISTINCT FROM $1::{table.type} FROM {table.name} WHERE n = {n}"
            _, rows = await answer(gateway, query, params=[value])
            if rows != [[True]]:
                lost.setdefault(name, []).append(value)
    assert lost == {}
