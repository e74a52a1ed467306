"""How a drill's numbers are written for people."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from gateway.drill_report import Promises, Report
from gateway.drill_table import failed_text, seconds_text, show_table, verdict_line
from gateway.drill_verdict import judge
from tests.support.recordings import CALL_S, call, recording

GONE = [call(12.0 + n / 10, 12.001 + n / 10, "unavailable", turned_away=True) for n in range(3)]
SEEN = recording(call(9.0, 9.02), call(11.0, 11.1, "internal", message="oh"), *GONE, call(14.4, 14.5))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0.0, "0 ms"), (0.0234, "23 ms"), (0.9994, "999 ms"), (0.9996, "1.0 s"), (12.04, "12.0 s")],
)
def test_seconds_are_written_as_people_read_them(seconds: float | None, text: str) -> None:
    assert seconds_text(seconds) == text


def test_calls_that_the_breaker_turned_away_are_counted_apart() -> None:
    assert failed_text(judge(SEEN, Promises())) == "1 internal, 3 turned away"
    assert failed_text(judge(recording(call(14.4, 14.5)), Promises())) == "0"


def test_a_verdict_in_one_line_has_its_reasons_below() -> None:
    lines = verdict_line(judge(SEEN, Promises())).plain.splitlines()
    assert lines[0] == "✗ refused    2 of 6 answered, 1 lost, longest 0.1 s"
    assert lines[1].strip().startswith("1 read was lost although savable")


def test_the_table_holds_each_scenario_and_why_it_failed() -> None:
    report = Report(
        profile="local",
        address="host:5432/shop",
        call_s=CALL_S,
        callers=4,
        seconds=5,
        command="pg-gateway drill",
        version="0",
        began_at="2026-01-01T00:00:00+00:00",
        done=[(SEEN, judge(SEEN, Promises()))],
        interrupted="reset",
    )
    out = io.StringIO()
    show_table(Console(file=out), report)

    text = out.getvalue()
    row = next(line for line in text.splitlines() if line.strip().startswith("refused "))
    assert row.split()[-1] == "FAIL"
    assert "refused: 1 read was lost although savable, 1 of them by internal: oh" in text
    assert "Interrupted in reset" in text
    assert max(map(len, text.splitlines())) <= 120
