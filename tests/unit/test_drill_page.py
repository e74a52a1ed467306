"""The page of a drill: one file that asks for nothing, true to the numbers, safe with any text."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest

from gateway.drill_page import html_page
from gateway.drill_records import Call
from gateway.drill_report import Promises, Report
from gateway.drill_timeline import KINDS, kind_of, timeline
from gateway.drill_verdict import judge
from tests.support.recordings import CALL_S, call, neighbour, recording

EVIL = '<script>alert("x")</script>'
CALLS = {
    "ok": call(1.0, 1.02),
    "retried": call(9.9, 14.5, retried_s=(10.1,)),
    "away": call(13.0, 13.001, "unavailable", turned_away=True),
    "failed": call(2.0, 12.0, "timeout", message=EVIL),
    "lost": call(11.0, 11.5, "unavailable", message=EVIL),
}
SEEN = recording(*CALLS.values(), call(15.0, 15.1), neighbours=(neighbour(3.0, 0.002), neighbour(11.0, 0.1)))


def report(*, profile: str = "local", address: str = "host:5432/shop", command: str = "pg-gateway drill") -> Report:
    return Report(
        profile=profile,
        address=address,
        command=command,
        call_s=CALL_S,
        callers=4,
        seconds=5,
        version="0",
        began_at="2026-01-01T00:00:00+00:00",
        done=[(SEEN, judge(SEEN, Promises()))],
    )


class Reader(HTMLParser):
    """Reads a page: which elements are open at its end, and which attributes lead elsewhere."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.links: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002 - the parser's
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_asks_for_nothing_elsewhere() -> None:
    page = html_page(report())
    read = Reader(page)

    assert read.open == []
    assert read.links == ["#refused"]
    assert not {"script", "link", "img", "iframe"} & set(read.seen)
    assert "url(" not in page
    assert "@import" not in page


def test_it_has_colours_for_light_and_for_dark() -> None:
    page = html_page(report())
    light, dark = re.findall(r":root \{(.*?)\}", page, re.DOTALL)[:2]
    assert "prefers-color-scheme: dark" in page
    assert set(re.findall(r"(--[\w-]+):", light)) == set(re.findall(r"(--[\w-]+):", dark))


def test_every_colour_of_the_style_is_defined() -> None:
    page = html_page(report())
    assert set(re.findall(r"var\((--[\w-]+)\)", page)) == set(re.findall(r"(--[\w-]+):", page))


def test_no_text_becomes_markup() -> None:
    page = html_page(report(profile=EVIL, address=EVIL, command=EVIL))
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_it_shows_the_numbers_of_the_verdict() -> None:
    page = html_page(report())
    for words in ("<b>3 of 6 answered</b>", "noticed after <b>100 ms</b>", "1 read was lost although savable"):
        assert words in page


def test_a_picture_is_well_formed_and_has_every_call() -> None:
    picture = ET.fromstring(timeline(SEEN, Promises()))
    names = [element.get("class") for element in picture]

    assert picture.get("aria-label") == "refused: connections are refused"
    assert names.count("fault") == 1
    dots = [element for element in picture if element.get("class") == "dots ok"]
    assert sum((element.get("d") or "").count("M") for element in dots) == 2
    circles = [element for element in picture if element.tag == "circle"]
    assert [element.get("class") for element in circles] == ["dot retried", "dot failed", "dot lost"]
    titles = [next(iter(element)).text for element in circles]
    assert titles[0] == "ok after 4.60 s, tried again once"
    assert titles[2] == f"unavailable after 0.50 s: {EVIL}"


def test_what_failed_stands_higher_the_longer_it_took() -> None:
    picture = ET.fromstring(timeline(SEEN, Promises()))
    places = {element.get("class"): float(element.get("cy") or 0) for element in picture if element.tag == "circle"}
    assert places["dot failed"] < places["dot retried"] < places["dot lost"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_is_of_the_kind_that_the_legend_names(kind: str) -> None:
    one: Call = CALLS[kind]
    assert kind_of(one, SEEN, Promises()) == kind


def test_thousands_of_calls_stay_small() -> None:
    many = recording(*(call(number / 500, number / 500 + 0.02) for number in range(9000)))
    assert len(timeline(many, Promises())) < 9000 * 20


def test_a_drill_that_was_cut_off_says_so() -> None:
    cut_off = report()
    cut_off.interrupted = "half"
    assert "Interrupted in <b>half</b>" in html_page(cut_off)
