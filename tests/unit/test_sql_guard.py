"""The judge, by the table of `tests/corpus` and by what it says about places, limits and names."""

from __future__ import annotations

import contextlib
import time

import pytest

from gateway.errors import BadQuery, Forbidden, GatewayError, InvalidArguments, TooLarge, UnsafeSql
from gateway.sql_functions import FunctionCatalog, FunctionEntry
from gateway.sql_guard import Judged, judge, parse
from gateway.sql_rules import DENIED_BUILTINS, REFUSED_SETTINGS, STATEMENTS, VOLATILE_ALLOWED
from gateway.sql_text import MOST_BYTES
from tests.corpus import recorded_catalog
from tests.corpus.attacks import ATTACKS, Attack
from tests.corpus.harmless import HARMLESS, Harmless

CLASSES = """
stacked dml ddl cte-write into row-lock sequence position large-object file-read file-write dynamic-sql network session
prepared signal lock notify admin lexer shadow hidden leak rls explain wrap time size input
""".split()  # noqa: SIM905 - the words of the corpus, as it orders them
# Classes in which PostgreSQL itself would call some of the texts a mistake.
BY_SYNTAX = ("wrap", "input")
NOT_UNSAFE = (*BY_SYNTAX, "size", "network")


@pytest.fixture(scope="module")
def catalog() -> FunctionCatalog:
    return recorded_catalog()


@pytest.fixture(scope="module")
def packaged() -> FunctionCatalog:
    return FunctionCatalog.packaged()


def refusal(sql: str, catalog: FunctionCatalog, **options: tuple[str, ...]) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        judge(sql, catalog=catalog, **options)
    return caught.value


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.id)
def test_an_attack_is_refused_or_left_to_a_layer_that_is_named(attack: Attack, catalog: FunctionCatalog) -> None:
    if attack.gate == "server":
        assert attack.reason
        judge(attack.sql, catalog=catalog, search_path=attack.search_path)
        return

    error = refusal(attack.sql, catalog, search_path=attack.search_path)

    assert isinstance(error, (UnsafeSql, BadQuery, TooLarge, InvalidArguments))
    assert error.hint or error.details.get("rule") == "syntax"
    assert isinstance(error, UnsafeSql) or attack.kind in NOT_UNSAFE
    assert error.details.get("rule") != "syntax" or attack.kind in BY_SYNTAX


@pytest.mark.parametrize("harmless", HARMLESS, ids=lambda harmless: harmless.id)
def test_a_harmless_statement_passes(harmless: Harmless, catalog: FunctionCatalog) -> None:
    judged = judge(harmless.sql, catalog=catalog)

    assert judged.sql in harmless.sql
    assert harmless.sql[judged.offset :].startswith(judged.sql)
    assert judge(judged.sql, catalog=catalog).kind == judged.kind


@pytest.mark.parametrize("harmless", HARMLESS, ids=lambda harmless: harmless.id)
def test_without_a_database_only_names_of_its_own_are_refused(harmless: Harmless, packaged: FunctionCatalog) -> None:
    rule = None
    try:
        judge(harmless.sql, catalog=packaged)
    except UnsafeSql as error:
        rule = error.details["rule"]

    assert rule in (None, "unknown-function", "unknown-operator")


def test_the_corpus_is_as_large_as_it_should_be() -> None:
    assert len({attack.id for attack in ATTACKS}) == len(ATTACKS) >= 300
    assert len({harmless.sql for harmless in HARMLESS}) == len(HARMLESS) >= 300
    for kind in CLASSES:
        assert len({attack.sql for attack in ATTACKS if attack.kind == kind}) >= 8, kind


@pytest.mark.parametrize(
    ("sql", "rule", "position", "words"),
    [
        ("SELECT pg_sleep(1)", "function-volatile", 8, "function pg_sleep is volatile and not on the allowed list"),
        ("SELECT 'é', '✓', pg_sleep(1)", "function-volatile", 18, "pg_sleep"),
        ("/* ✓✓ */ SELECT 1,\n  lo_unlink(1)", "function-volatile", 22, "lo_unlink"),
        ("SELECT now(), nextval('s'), pg_sleep(1)", "function-volatile", 15, "nextval"),
        ("SELECT a FROM pg_authid", "relation", 15, "password hashes"),
        ("SELECT table_to_xml('t', true, false, '')", "function-denied", 8, "dumps whole relations"),
        ("SELECT 1; SELECT 2", "one-statement", 11, "holds 2 statements"),
        ("  DROP TABLE t", "ddl", 3, "DROP TABLE is not a read"),
        ("-- é\nDELETE FROM t", "write", 6, "DELETE FROM is not a read"),
        ("WITH d AS (DELETE FROM t RETURNING 1) TABLE d", "data-modifying-cte", 24, "DELETE inside WITH"),
        ("SELECT 1 INTO x", "into", 15, "SELECT INTO"),
        ("SELECT 1 FROM t FOR UPDATE", "row-lock", None, "lock rows"),
        ("SET work_mem = 1", "session", 1, "SET"),
        ("ALTER /* é */ SYSTEM RESET ALL", "maintenance", 1, "ALTER SYSTEM is not a read"),
        ("BEGIN", "transaction", 1, "BEGIN is not a read"),
        ("COPY t TO STDOUT", "copy", 1, "COPY"),
        ("DO $$x$$", "code", 1, "DO is not a read"),
        ("CALL f()", "code", 1, "CALL is not a read"),
        ("PREPARE p AS SELECT 1", "prepared", 1, "PREPARE"),
        ("DECLARE c CURSOR FOR SELECT 1", "prepared", 1, "DECLARE"),
        ("LOCK TABLE t", "lock", 1, "LOCK TABLE is not a read"),
        ("LISTEN a", "notify", 1, "LISTEN"),
        ("EXPLAIN DELETE FROM t", "write", 1, "EXPLAIN is allowed for a SELECT only"),
        ("EXPLAIN (COSTS, FROBNICATE) SELECT 1", "explain-option", 17, "frobnicate"),
        ("VALUES (DEFAULT)", "construct", 9, "SetToDefault"),
        ("SHOW app.secret", "setting", 1, "app.secret"),
        ("SHOW work_meme", "setting", 1, "work_meme"),
        ("SELECT current_setting('a.b')", "setting", 8, "a.b"),
        ("SELECT ('x'::text).current_setting", "setting", 9, "literal"),
        ("SELECT ('x'::text).pg_read_file", "function-volatile", 9, "pg_read_file"),
        ("SELECT frobnicate(1)", "unknown-function", 8, "frobnicate is not known"),
        ("SELECT 1 <=> 2", "unknown-operator", 10, "<=> is not known"),
        ("SELECT 1 IN (2, nextval('s'))", "function-volatile", 17, "nextval"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_construct_its_place_and_its_rule(
    sql: str, rule: str, position: int | None, words: str, packaged: FunctionCatalog
) -> None:
    error = refusal(sql, packaged)

    assert isinstance(error, UnsafeSql)
    assert error.details["rule"] == rule
    assert words in error.message
    assert error.position == position
    assert error.hint


@pytest.mark.parametrize(
    ("sql", "position"),
    [("SELEC 1", 1), ("SELECT 'é✓' FROM FROM", 18), ("SELECT (1", 10), ("SELECT 'open", 8), ("SELECT 1 x y", 12)],
)
def test_a_syntax_error_is_a_bad_query_with_its_place_in_characters(
    sql: str, position: int, packaged: FunctionCatalog
) -> None:
    error = refusal(sql, packaged)

    assert isinstance(error, BadQuery)
    assert error.sqlstate == "42601"
    assert error.position == position


@pytest.mark.parametrize(
    ("sql", "cut", "offset"),
    [
        ("SELECT 1", "SELECT 1", 0),
        (" \n SELECT 1 ; ", "SELECT 1", 3),
        ("SELECT 'é' ;-- ✓", "SELECT 'é'", 0),
        ("/* é */ SELECT '✓' -- ü\n;;", "SELECT '✓' -- ü", 8),
        (";; ;SELECT '✓é'\t; ;", "SELECT '✓é'", 4),
        ("SELECT 1 -- trailing", "SELECT 1 -- trailing", 0),
        ("SELECT 1 AS \u00a0 ", "SELECT 1 AS \u00a0", 0),
    ],
)
def test_the_statement_is_cut_out_by_bytes_and_placed_by_characters(
    sql: str, cut: str, offset: int, packaged: FunctionCatalog
) -> None:
    judged = judge(sql, catalog=packaged)

    assert (judged.sql, judged.offset) == (cut, offset)


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT 1", Judged(kind="select", sql="", offset=0)),
        ("TABLE a.t", Judged(kind="select", sql="", offset=0, reads_star=True, relations=(("a", "t"),))),
        ("SELECT count(*) FROM t", Judged(kind="select", sql="", offset=0, relations=((None, "t"),))),
        ("SELECT t.* FROM t", Judged(kind="select", sql="", offset=0, reads_star=True, relations=((None, "t"),))),
        ("SELECT $2 + $1", Judged(kind="select", sql="", offset=0, param_count=2)),
        ("EXPLAIN SELECT 1", Judged(kind="explain", sql="", offset=0)),
        ("EXPLAIN ANALYZE SELECT 1", Judged(kind="explain", sql="", offset=0, analyze=True)),
        ("EXPLAIN (ANALYZE off) SELECT 1", Judged(kind="explain", sql="", offset=0)),
        ("EXPLAIN (ANALYZE 0) SELECT 1", Judged(kind="explain", sql="", offset=0)),
        ("EXPLAIN (ANALYZE 1) SELECT 1", Judged(kind="explain", sql="", offset=0, analyze=True)),
        ("EXPLAIN (ANALYZE false, ANALYZE) SELECT 1", Judged(kind="explain", sql="", offset=0, analyze=True)),
        ("SHOW work_mem", Judged(kind="show", sql="", offset=0)),
    ],
)
def test_a_verdict_says_what_the_statement_is(sql: str, expected: Judged, packaged: FunctionCatalog) -> None:
    judged = judge(sql, catalog=packaged)

    found = (judged.kind, judged.reads_star, judged.relations, judged.param_count, judged.analyze)
    assert found == (
        expected.kind,
        expected.reads_star,
        expected.relations,
        expected.param_count,
        expected.analyze,
    )


@pytest.mark.parametrize(
    ("sql", "relations"),
    [
        ("WITH a AS (SELECT 1) SELECT * FROM a, b", {"b"}),
        ("WITH a AS (SELECT * FROM a) SELECT * FROM a", {"a"}),
        ("WITH RECURSIVE a AS (SELECT 1 UNION SELECT * FROM a) TABLE a", set()),
        ("WITH a AS (SELECT * FROM b), b AS (SELECT 1) SELECT * FROM a, b", {"b"}),
        ("WITH RECURSIVE a AS (SELECT * FROM b), b AS (SELECT 1) SELECT * FROM a, b", set()),
        ("SELECT * FROM (WITH a AS (SELECT 1) SELECT * FROM a) x, a", {"a"}),
        ("WITH a AS (SELECT 1) SELECT * FROM s.a", {"a"}),
        ("WITH a AS (SELECT 1) SELECT (SELECT count(*) FROM a), (WITH b AS (TABLE a) SELECT count(*) FROM b)", set()),
        ("(WITH a AS (SELECT 1) TABLE a) UNION TABLE a", {"a"}),
    ],
)
def test_a_cte_hides_a_relation_only_where_it_can_be_seen(
    sql: str, relations: set[str], packaged: FunctionCatalog
) -> None:
    assert {name for _, name in judge(sql, catalog=packaged).relations} == relations


@pytest.mark.parametrize(
    ("sql", "search_path", "is_allowed"),
    [
        ("SELECT * FROM sales.t", ("public",), True),
        ("SELECT * FROM t", ("sales",), True),
        ("SELECT * FROM t", ("public",), False),
        ("SELECT * FROM t", ("sales", "public"), False),
        ("SELECT * FROM t", ("sales", "pg_catalog"), True),
        ("SELECT * FROM hr.t", ("sales",), False),
        ("SELECT * FROM other.hr.t", ("sales",), False),
        ("SELECT * FROM pg_class, pg_catalog.pg_type, information_schema.tables", ("public",), True),
        ("WITH t AS (SELECT 1) SELECT * FROM t", ("public",), True),
        ("SELECT * FROM (WITH t AS (SELECT 1) TABLE t) x, t", ("public",), False),
    ],
)
def test_the_schemas_of_a_profile_bound_what_it_reads(
    sql: str, search_path: tuple[str, ...], is_allowed: bool, packaged: FunctionCatalog  # noqa: FBT001 - a column of the table
) -> None:  # fmt: skip
    if is_allowed:
        judge(sql, catalog=packaged, schemas=("sales",), search_path=search_path)
        return

    error = refusal(sql, packaged, schemas=("sales",), search_path=search_path)

    assert isinstance(error, Forbidden)
    assert "sales" in (error.hint or "")
    assert error.position is not None


@pytest.mark.parametrize(
    ("sql", "allow"),
    [
        ("SELECT pg_sleep(1)", "pg_sleep"),
        ("SELECT pg_sleep(1)", "pg_catalog.pg_sleep"),
        ("SELECT (1).pg_sleep", "pg_sleep"),
        ("SELECT log_write('x')", "log_write"),
        ("SELECT public.log_write('x')", "public.log_write"),
        ("SELECT public.definer_peek()", "definer_peek"),
        ("SELECT 1 === 2", "public.noisy_compare"),
        ("SELECT current_setting('a.b')", "current_setting"),
        ("SELECT ('a.b'::text).current_setting", "current_setting"),
        ("SELECT made_a_moment_ago()", "made_a_moment_ago"),
        ("SELECT query_to_xml('SELECT 1', true, true, '')", "query_to_xml"),
    ],
)
def test_a_profile_may_allow_a_function(sql: str, allow: str, catalog: FunctionCatalog) -> None:
    refusal(sql, catalog)

    assert judge(sql, catalog=catalog, allow_functions=(allow,)).kind == "select"


def test_a_calm_function_under_a_name_that_became_syntax_is_left_alone(catalog: FunctionCatalog) -> None:
    sql = "SELECT json_value('{}'::jsonb, '$.a')"
    refusal(sql, catalog, search_path=("shadow", "public"))

    allowed = judge(sql, catalog=catalog, search_path=("shadow", "public"), allow_functions=("shadow.json_value",))
    assert allowed.kind == "select"


def test_an_allowed_function_of_one_schema_allows_no_other(catalog: FunctionCatalog) -> None:
    error = refusal("SELECT lower('x')", catalog, search_path=("shadow", "public"), allow_functions=("public.lower",))

    assert "shadow.lower" in error.message
    assert "pg_catalog.lower" in (error.hint or "")


def test_a_shadowed_built_in_can_be_called_by_its_full_name(catalog: FunctionCatalog) -> None:
    sql = "SELECT pg_catalog.lower('X'), 'a' OPERATOR(pg_catalog.=) 'b'"

    assert judge(sql, catalog=catalog, search_path=("shadow", "public")).kind == "select"


def test_a_calm_overload_of_an_extension_leaves_the_built_in_alone(catalog: FunctionCatalog) -> None:
    assert any(entry.extension == "citext" for entry in catalog.functions["replace"])

    assert judge("SELECT replace('a', 'b', 'c')", catalog=catalog).kind == "select"


def test_a_name_that_the_database_does_not_have_is_a_bad_query(catalog: FunctionCatalog) -> None:
    error = refusal("SELECT lenght('x')", catalog)

    assert isinstance(error, BadQuery)
    assert error.sqlstate == "42883"
    assert error.details == {"rule": "unknown-function", "name": "lenght"}
    assert "length" in (error.hint or "")


def test_a_function_outside_the_search_path_is_found_by_name(catalog: FunctionCatalog) -> None:
    error = refusal("SELECT order_count(1)", catalog, search_path=("sales",))

    assert error.hint == "did you mean public.order_count?"


def test_an_aggregate_is_as_volatile_as_its_parts(catalog: FunctionCatalog) -> None:
    assert [entry.volatility for entry in catalog.functions["noisy_sum"]] == ["v"]


def test_of_two_faults_the_first_in_the_text_is_told(packaged: FunctionCatalog) -> None:
    error = refusal("SELECT (SELECT 1 FROM pg_authid), pg_sleep(1), setval('s', 1) INTO x", packaged)

    assert "pg_authid" in error.message


def test_a_long_chain_within_reason_passes(packaged: FunctionCatalog) -> None:
    chains = (
        "SELECT " + " || ".join(["'x'"] * 400),
        "SELECT 1 WHERE " + " OR ".join(f"a = {i}" for i in range(5000)),
        "SELECT 1 WHERE a IN (" + ", ".join(str(i) for i in range(10_000)) + ")",
        "SELECT 1" + " UNION ALL SELECT 1" * 300,
    )
    assert [judge(chain, catalog=packaged).kind for chain in chains] == ["select"] * 4


@pytest.mark.parametrize(
    ("sql", "rule"),
    [
        ("SELECT '" + "x" * MOST_BYTES + "'", "length"),
        ("SELECT '" + "é" * (MOST_BYTES // 2) + "'", "length"),
        ("SELECT 1" + "+1" * 49_000, "depth"),
        ("SELECT a" + ",a" * 49_000, "parts"),
        ("SELECT " + "(" * 49_000, "depth"),
        ("SELECT " + "/*" * 101 + "*/" * 101 + " 1", "comments"),
        ("SELECT 1 " + "+-" * 45_000 + " 1", "operators"),
    ],
)
def test_what_would_keep_a_parser_busy_is_too_large(sql: str, rule: str, packaged: FunctionCatalog) -> None:
    error = refusal(sql, packaged)

    assert isinstance(error, TooLarge)
    assert error.details["rule"] == rule
    assert error.hint


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT (a)" + ".b" * 45_000,
        "SELECT a" + ".b" * 45_000,
        "WITH " + ", ".join(f"a{i} AS (SELECT 1 FROM a{i})" for i in range(3000)) + " SELECT 1",
        "SELECT a" + "[1]" * 30_000,
        "SELECT " + ", ".join(["pg_sleep(1)"] * 7000),
        "SELECT " + ", ".join(f"unknown_{i}()" for i in range(5000)),
        "SELECT 1 FROM a" + " NATURAL JOIN a" * 450 + ", a" * 30_000,
        "SELECT " + "$a$ $b$ " * 12_000,
    ],
    ids=lambda sql: sql[:20],
)
def test_no_text_within_the_limits_takes_long(sql: str, packaged: FunctionCatalog) -> None:
    started = time.process_time()
    with contextlib.suppress(GatewayError):
        judge(sql, catalog=packaged)

    assert time.process_time() - started < 5


def test_parse_reads_only_what_the_limits_let_through() -> None:
    assert len(parse("SELECT 1; SELECT 2").statements) == 2
    with pytest.raises(TooLarge):
        parse("/*" * 200)
    with pytest.raises(InvalidArguments):
        parse(" -- nothing\n;")


@pytest.mark.parametrize("name", sorted(VOLATILE_ALLOWED))
def test_an_allowed_volatile_function_is_one_in_some_version(name: str, packaged: FunctionCatalog) -> None:
    assert [entry.volatility for entry in packaged.functions[name]] == ["v"]


@pytest.mark.parametrize("name", sorted(DENIED_BUILTINS))
def test_a_denied_function_is_a_built_in(name: str, packaged: FunctionCatalog) -> None:
    assert name in packaged.functions


def test_every_other_volatile_built_in_is_refused(packaged: FunctionCatalog) -> None:
    volatile = {
        name
        for name, entries in packaged.functions.items()
        if any(entry.volatility == "v" for entry in entries) and name not in VOLATILE_ALLOWED
    }
    quoted = [name.replace('"', '""') for name in volatile]

    assert len(volatile) == 200
    for name in quoted:
        assert isinstance(refusal(f'SELECT "{name}"()', packaged), UnsafeSql)
        assert isinstance(refusal(f'SELECT * FROM pg_catalog."{name}"()', packaged), UnsafeSql)


@pytest.mark.parametrize("name", sorted(REFUSED_SETTINGS))
def test_a_setting_that_may_hold_a_secret_is_not_shown(name: str, packaged: FunctionCatalog) -> None:
    assert isinstance(refusal(f"SHOW {name.upper()}", packaged), UnsafeSql)
    assert isinstance(refusal(f"SELECT current_setting('{name.upper()}')", packaged), UnsafeSql)


def test_every_other_setting_of_postgresql_is_shown(packaged: FunctionCatalog) -> None:
    for name in set(packaged.settings) - REFUSED_SETTINGS.keys():
        assert judge(f"SHOW {name}", catalog=packaged).kind == "show"


def test_the_statements_that_are_told_apart_are_postgresqls() -> None:
    from pglast import ast

    assert all(hasattr(ast, name) for name in STATEMENTS)


def test_an_own_function_is_one_argument_away_from_a_column_only_on_its_own_rows(packaged: FunctionCatalog) -> None:
    own = FunctionEntry(schema="public", name="total", one_argument=True, row_of=("customers",))
    catalog = FunctionCatalog(
        functions={**packaged.functions, "total": [own]},
        operators=packaged.operators,
        calm=packaged.calm,
        calm_operators=packaged.calm_operators,
        relations=packaged.relations,
        settings=packaged.settings,
        complete=True,
    )

    judge("SELECT o.total, x.total FROM orders o JOIN customers c USING (id), (TABLE t) x", catalog=catalog)
    assert "total" in refusal("SELECT c.total FROM orders o, customers c", catalog).message
    assert "total" in refusal("SELECT customers.total FROM customers", catalog).message
    assert "total" in refusal("SELECT (c).total FROM customers c", catalog).message
    assert "total" in refusal("SELECT (f(1)).total", catalog, allow_functions=("f",)).message
    assert "total" in refusal("SELECT g.total FROM generate_series(1, 2) g", catalog).message
