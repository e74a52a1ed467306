"""Observers hear of every call; what they do wrong stays with them."""

from __future__ import annotations

import io
import logging

import pytest

from gateway.observe import CallRecord, DialRecord, OneLineFilter, Record, log_record, notify


def test_every_observer_hears_in_order() -> None:
    heard: list[tuple[str, Record]] = []
    record = CallRecord(tool="list_tables", profile="local")

    notify([lambda it: heard.append(("first", it)), lambda it: heard.append(("second", it))], record)

    assert heard == [("first", record), ("second", record)]


def test_an_observer_that_fails_is_logged_and_the_others_still_hear(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Record] = []

    def broken(_record: Record) -> None:
        raise RuntimeError("the disk is full")

    notify([broken, heard.append], CallRecord(tool="list_tables", profile="local"))

    assert len(heard) == 1
    assert "broken" in caplog.text
    assert "the disk is full" in caplog.text


def test_a_call_is_a_failure_until_it_has_ended_well() -> None:
    assert CallRecord(tool="list_tables", profile="local").outcome == "internal"


@pytest.mark.parametrize(("outcome", "level"), [("ok", "DEBUG"), ("timeout", "INFO")])
def test_a_call_is_a_line_that_is_quieter_when_it_went_well(
    caplog: pytest.LogCaptureFixture, outcome: str, level: str
) -> None:
    caplog.set_level(logging.DEBUG, logger="gateway.observe")
    log_record(
        CallRecord(tool="read_table", profile="local", outcome=outcome, seconds=0.0123, rows=7, answer_bytes=512)
    )

    assert [record.levelname for record in caplog.records] == [level]
    assert caplog.messages == [f"call tool=read_table profile=local outcome={outcome} seconds=0.012 rows=7 bytes=512"]


def test_only_a_dial_that_failed_is_a_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="gateway.observe")
    for outcome in ("ok", "unavailable"):
        log_record(DialRecord(profile="local", endpoint="db:5432", outcome=outcome, seconds=1.5))

    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert caplog.messages == ["dial profile=local endpoint=db:5432 outcome=unavailable seconds=1.500"]


@pytest.mark.parametrize(
    ("name", "shape"),
    [("asyncpg.pool", "line"), ("asyncio", "line"), ("gateway.app", "traceback")],
    ids=["driver", "loop", "ours"],
)
def test_a_librarys_trouble_in_the_background_is_one_line_and_ours_keeps_its_traceback(name: str, shape: str) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(OneLineFilter())
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    try:
        try:
            raise ConnectionRefusedError("connect call failed")
        except ConnectionRefusedError:
            logger.warning("Failed to restore a connection:\nfuture: <Task pending>", exc_info=True)
    finally:
        logger.removeHandler(handler)

    written = stream.getvalue().rstrip().splitlines()
    assert (len(written) == 1) is (shape == "line")
    assert "ConnectionRefusedError: connect call failed" in written[-1]
