"""A page as callers see it."""

from __future__ import annotations

import orjson
import pytest

from gateway.results import ResultPage, to_json


def page(**changes: object) -> dict[str, object]:
    values: dict[str, object] = {
        "columns": [{"name": "a", "type": "int4"}],
        "rows": b"[1],[2]",
        "row_count": 2,
        **changes,
    }
    read: dict[str, object] = orjson.loads(to_json(ResultPage(**values).to_dict("p")))  # type: ignore[arg-type] # checked by the class
    return read


def test_rows_are_embedded_as_the_database_wrote_them() -> None:
    body = ResultPage(columns=[], rows=b"[1.10],[1e400]", row_count=2).to_dict("p")
    assert b'"rows":[[1.10],[1e400]]' in to_json(body)


def test_the_profile_comes_first_and_what_is_absent_is_left_out() -> None:
    assert list(page()) == ["profile", "columns", "rows", "row_count", "truncated"]


@pytest.mark.parametrize("reason", ["rows", "bytes"])
def test_a_truncated_page_gives_its_reason_and_what_comes_next(reason: str) -> None:
    body = page(truncated_by=reason, next=["2"], hint="Read on.", extra={"table": "public.t"})
    assert body["truncated"] is True
    assert (body["truncated_by"], body["next"], body["hint"], body["table"]) == (reason, ["2"], "Read on.", "public.t")


def test_a_page_without_rows_is_an_empty_list() -> None:
    assert page(rows=b"", row_count=0)["rows"] == []


def test_json_is_compact_and_keeps_every_character() -> None:
    assert to_json({"ü": "\u2028\x01", 1: None}) == '{"ü":"\u2028\\u0001","1":null}'.encode()
