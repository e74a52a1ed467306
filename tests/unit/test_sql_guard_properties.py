"""Whatever the text, the judge answers with a verdict or one of its errors, and means the same thing twice."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import BadQuery, Forbidden, InvalidArguments, TooLarge, UnsafeSql
from gateway.sql_functions import FunctionCatalog
from gateway.sql_guard import Judged, judge
from tests.corpus.attacks import ATTACKS
from tests.corpus.harmless import HARMLESS

EXPECTED = (UnsafeSql, BadQuery, TooLarge, InvalidArguments, Forbidden)
CATALOG = FunctionCatalog.packaged()
SEEDS = [row.sql for row in HARMLESS] + [row.sql for row in ATTACKS if len(row.sql) < 2000]
PIECES = st.sampled_from(
    [
        *"()[]{};,.*+-/<>=~!@#%^&|`?:'\"$\\ \n\t\0é✓\ud800\U0001f600",
        *("SELECT", "FROM", "WHERE", "WITH", "RECURSIVE", "AS", "INTO", "FOR", "UPDATE", "DELETE", "INSERT", "VALUES"),
        *("EXPLAIN", "ANALYZE", "SHOW", "LATERAL", "pg_sleep(1)", "pg_authid", "nextval('s')", "$1", "$$", "$a$"),
        *('U&"', "E'", "--", "/*", "*/", "::", "1", "'a'", "a.b", "(a).b", "NULL", "ARRAY[", "CASE"),
    ]
)


def verdict(sql: str) -> Judged | None:
    try:
        return judge(sql, catalog=CATALOG, schemas=("public",))
    except EXPECTED as error:
        told = error
    assert told.message
    assert told.position is None or 1 <= told.position <= len(sql) + 1
    return None


def is_judged(sql: str) -> bool:
    """Say whether the text was allowed as some kind of statement, or refused in words; anything else is raised."""
    judged = verdict(sql)
    return judged is None or judged.kind in ("select", "explain", "show")


@given(st.text())
def test_any_text_gets_a_verdict_or_an_error_of_the_judge(sql: str) -> None:
    assert is_judged(sql)


@given(st.lists(PIECES, max_size=60).map(" ".join) | st.lists(PIECES, max_size=60).map("".join))
@settings(max_examples=300)
def test_any_mixture_of_sql_gets_a_verdict_or_an_error_of_the_judge(sql: str) -> None:
    assert is_judged(sql)


@given(st.binary(max_size=500))
def test_any_bytes_get_a_verdict_or_an_error_of_the_judge(raw: bytes) -> None:
    assert is_judged(raw.decode("utf-8", errors="surrogateescape"))


@given(st.data())
@settings(max_examples=300)
def test_a_mutated_statement_gets_a_verdict_that_its_cut_keeps(data: st.DataObject) -> None:
    sql = data.draw(st.sampled_from(SEEDS))
    start = data.draw(st.integers(0, len(sql)))
    end = data.draw(st.integers(start, min(len(sql), start + 20)))
    mutated = sql[:start] + data.draw(PIECES | st.sampled_from(SEEDS)) + sql[end:]

    judged = verdict(mutated)

    if judged is not None:
        assert mutated[judged.offset :].startswith(judged.sql)
        assert verdict(judged.sql) == Judged(
            kind=judged.kind,
            sql=judged.sql,
            offset=0,
            reads_star=judged.reads_star,
            relations=judged.relations,
            param_count=judged.param_count,
            analyze=judged.analyze,
        )


@given(st.text(alphabet="é✓ \n\t/*-;a", max_size=30), st.text(alphabet="é✓ \n\t;", max_size=30))
def test_what_surrounds_a_statement_moves_its_offset_and_nothing_else(before: str, after: str) -> None:
    judged = verdict(
        f"/*{before.replace('/', '').replace('*', '')}*/ SELECT '✓' --{after.translate({10: None, 59: None})}\n;"
    )

    assert judged is not None
    assert "SELECT '✓'" in judged.sql


@pytest.mark.parametrize(
    "write", ["DELETE FROM t", "INSERT INTO t VALUES (1)", "UPDATE t SET a = 1", "SELECT 1 INTO t"]
)
@given(st.sampled_from(SEEDS))
def test_nothing_put_before_or_behind_a_write_lets_it_pass(write: str, seed: str) -> None:
    assert verdict(f"{seed}\n;{write}") is None
    assert verdict(f"{write};{seed}") is None
    assert verdict(f"WITH w AS ({write} RETURNING *) {seed}") is None
