"""Verdicts on recordings made by hand: which read was lost, what was promised, who noticed what and when."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from gateway.drill_records import Call, Fault, Recording
from gateway.drill_report import Promises, Report
from gateway.drill_verdict import is_lost, judge, percentile
from tests.support.recordings import CALL_S, call, neighbour, probe, recording

PROMISES = Promises()
GOOD = (call(9.0, 9.02), call(9.9, 14.5, retried_s=(10.1, 12.0)), call(14.6, 14.7))

# A call that is not answered, with probes answered at 9.1, 14.3, 15.1 and 19.1: is it lost although savable?
FAILURES: dict[str, tuple[Call, bool]] = {
    "its time ended before the database was back": (call(4.0, 14.0, "timeout"), False),
    "its time ended just after the database was back": (call(4.5, 14.4, "unavailable"), True),
    "it was given up early": (call(11.0, 11.2, "unavailable"), True),
    "it failed long after the fault": (call(17.0, 17.1, "bad_query"), True),
    "it failed before the fault": (call(3.0, 3.1, "unavailable"), True),
    "only a probe older than the fault was answered": (call(0.0, 10.0, "timeout"), False),
    "it was turned away while the database was gone": (call(13.95, 13.951, "unavailable", turned_away=True), False),
    "it was turned away a moment after": (call(15.2, 15.201, "unavailable", turned_away=True), False),
    "it was turned away long after": (call(19.5, 19.501, "unavailable", turned_away=True), True),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_read_is_lost_if_a_probe_was_answered_in_its_time(case: str) -> None:
    failed, expected = FAILURES[case]
    assert is_lost(failed, recording(failed), PROMISES) is expected


@pytest.mark.parametrize(("usual_s", "expected"), [(0.05, True), (0.15, False)])
def test_what_is_left_has_to_do_for_the_read_itself(usual_s: float, *, expected: bool) -> None:
    # Its time is up at 14.4 s, and the probe was answered at 14.3 s.
    failed = call(4.4, 14.4, "timeout")
    usual = (call(1.0, 1.0 + usual_s), call(2.0, 2.0 + usual_s), call(3.0, 9.9))
    others = (call(1.0, 9.0, caller=1),)
    assert is_lost(failed, recording(*usual, *others, failed), PROMISES) is expected


def test_an_answered_read_is_never_lost() -> None:
    assert not any(is_lost(one, recording(*GOOD), PROMISES) for one in GOOD)


def test_a_good_scenario_passes() -> None:
    verdict = judge(recording(*GOOD), PROMISES)

    assert verdict.is_passed, verdict.reasons
    assert (verdict.calls, verdict.answered, verdict.failed, verdict.lost) == (3, 3, {}, 0)
    assert verdict.longest_s == pytest.approx(4.6)
    assert (verdict.retried, verdict.retries) == (1, 2)


def test_times_are_counted_from_the_fault_and_from_the_probe() -> None:
    verdict = judge(recording(*GOOD), PROMISES)

    assert verdict.notice_s == pytest.approx(0.1)
    assert verdict.unreachable_s == pytest.approx(4.3)
    assert verdict.recover_s == pytest.approx(0.2)


def test_who_is_quicker_than_the_probe_has_recovered_at_once() -> None:
    assert judge(recording(call(13.0, 14.1)), PROMISES).recover_s == 0.0


def test_an_error_is_noticed_as_well_as_a_retry() -> None:
    failed = call(9.5, 10.4, "unavailable")
    assert judge(recording(failed, *GOOD[2:]), PROMISES).notice_s == pytest.approx(0.4)


def test_nothing_is_noticed_where_every_call_went_as_ever() -> None:
    assert judge(recording(call(9.0, 9.1), call(14.5, 14.6)), PROMISES).notice_s is None


def test_a_database_that_was_reachable_throughout_was_never_unreachable() -> None:
    probes = tuple(probe(second, second + 0.1) for second in range(20))
    assert judge(recording(*GOOD, probes=probes), PROMISES).unreachable_s is None


# What breaks a promise, and a part of what is said about it.
BROKEN: dict[str, tuple[Recording, str]] = {
    "a lost read": (
        recording(*GOOD, call(11.0, 11.2, "internal", message="unexpected TypeError")),
        "1 read was lost although savable, 1 of them by internal: unexpected TypeError",
    ),
    "a long call": (recording(*GOOD, call(2.0, 14.2, "timeout")), "a call took 12.2 s, more than call_s + 2 s = 12 s"),
    "a slow recovery": (recording(*GOOD[:1], call(14.0, 17.5)), "answered 3.2 s after the probe, 3 s are promised"),
    "no recovery": (recording(*GOOD[:1]), "no read was answered after the fault"),
    "no answer at all": (recording(call(4.0, 14.0, "timeout")), "no read was answered"),
    "a probe that stays out": (recording(*GOOD, probes=(probe(9.0, 9.1),)), "the probe did not reach the database"),
    "a neighbour's failure": (
        recording(*GOOD, neighbours=(neighbour(12.0, 0.1, outcome="busy"),)),
        "1 call of the neighbour near failed",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_promise_fails_the_scenario_and_is_named(case: str) -> None:
    seen, words = BROKEN[case]
    verdict = judge(seen, PROMISES)
    assert not verdict.is_passed
    assert any(words in reason for reason in verdict.reasons), verdict.reasons


def test_a_call_within_the_grace_is_no_fault() -> None:
    assert judge(recording(*GOOD, call(2.0, 13.9, "timeout")), PROMISES).is_passed


def near(before_ms: float, during_ms: float, *, each: int = 80) -> tuple[Any, ...]:
    """Return neighbours' calls of so many ms before the fault at 10 s, and from it on."""
    before = [neighbour(number * 9 / each, before_ms / 1000) for number in range(each)]
    during = [neighbour(10 + number * 4 / each, during_ms / 1000) for number in range(each)]
    return (*before, *during)


@pytest.mark.parametrize(
    ("before_ms", "during_ms", "passes"),
    [(2, 2, True), (2, 6.9, True), (2, 7.1, False), (100, 119, True), (100, 121, False), (10, 1, True)],
)
def test_a_neighbour_may_slow_down_by_a_fifth_or_by_what_is_noise(
    before_ms: float, during_ms: float, *, passes: bool
) -> None:
    verdict = judge(recording(*GOOD, neighbours=near(before_ms, during_ms)), PROMISES)

    assert verdict.is_passed is passes, verdict.reasons
    (numbers,) = verdict.neighbours
    assert numbers.before_s == pytest.approx(before_ms / 1000)
    assert numbers.during_s == pytest.approx(during_ms / 1000)


def test_a_neighbour_with_few_calls_is_not_judged() -> None:
    assert judge(recording(*GOOD, neighbours=near(2, 50, each=59)), PROMISES).is_passed


def test_each_neighbour_is_judged_by_itself() -> None:
    slow = [dataclasses.replace(it, profile="slow") for it in near(2, 50)]
    verdict = judge(recording(*GOOD, neighbours=(*near(2, 2), *slow)), PROMISES)

    assert [it.profile for it in verdict.neighbours] == ["near", "slow"]
    assert len(verdict.reasons) == 1
    assert "slow went from 2.0 ms to 50.0 ms" in verdict.reasons[0]


def test_after_the_recovery_a_neighbour_is_not_watched_any_more() -> None:
    # As long as the calm was, at least: until 20 s here.
    late = tuple(neighbour(20.5 + number / 100, 5.0) for number in range(100))
    assert judge(recording(*GOOD, neighbours=(*near(2, 2), *late)), PROMISES).is_passed


@pytest.mark.parametrize(
    ("values", "expected"), [([], None), ([3.0], 3.0), (range(1, 101), 95), (range(1, 21), 19), ([5, 1, 3], 5)]
)
def test_a_percentile_is_a_value_that_was_seen(values: Any, expected: float | None) -> None:
    assert percentile(list(values), 0.95) == expected


def test_a_report_is_json_and_holds_each_number() -> None:
    seen = recording(*GOOD, call(11.0, 11.2, "internal"), neighbours=near(2, 2))
    report = Report(
        profile="local",
        address="host:5432/shop",
        call_s=CALL_S,
        callers=4,
        seconds=5,
        command="pg-gateway drill",
        version="0",
        began_at="2026-01-01T00:00:00+00:00",
        done=[(seen, judge(seen, PROMISES))],
    )
    read = json.loads(json.dumps(report.to_dict()))

    assert (read["verdict"], read["interrupted"]) == ("fail", None)
    (scenario,) = read["scenarios"]
    assert scenario["failed"] == {"internal": 1}
    assert scenario["lost_although_savable"] == 1
    assert scenario["recover_s"] == 0.2
    assert scenario["neighbours"][0]["p95_before_s"] == 0.002


def test_a_scenario_that_was_cut_off_before_its_fault_has_numbers_all_the_same() -> None:
    seen = Recording(scenario="refused", summary="", call_s=CALL_S, fault=Fault(), calls=[call(0.0, 0.1)])
    verdict = judge(seen, PROMISES)

    assert (verdict.calls, verdict.notice_s, verdict.recover_s) == (1, None, None)
    assert not verdict.is_passed
