"""One scenario as an inline SVG: every call by its start and its seconds, what the probe saw, the neighbours. Pure.

Colours are classes, which the page's style sheet gives a value for light and for dark. Many points share one path, so
that thousands of calls stay small.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from html import escape
from typing import Final

from gateway.drill_records import OK, Call, Recording
from gateway.drill_report import Promises
from gateway.drill_verdict import is_lost

# What a call's point can be, in the order of drawing, the gravest last; and the words of the legend.
KINDS: Final = {
    "ok": "answered",
    "retried": "answered after another try",
    "away": "turned away by the open breaker",
    "failed": "failed, its time was up",
    "lost": "lost although savable",
}

_WIDTH, _HEIGHT, _LEFT, _RIGHT = 1000, 358, 70, 16
# Lanes, from top to bottom.
_CALLS, _PROBE, _NEIGHBOURS = (30, 214), (228, 238), (266, 330)
_LEAST_S, _NEAR_LEAST_S = 0.001, 0.0003
_SECONDS: Final = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
_STEPS: Final = (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600)
_TICKS: Final = 14
_NAMED_POINTS: Final = 300
_WORD: Final = 70  # the width of a word above the lanes


class _Lane:
    """Where seconds stand between the top and the bottom of a lane, on a logarithmic scale."""

    def __init__(self, lane: tuple[int, int], least_s: float, most_s: float) -> None:
        self.top, self.bottom = lane
        self.most_s = most_s
        self._least_s = least_s
        self._span = math.log10(most_s / least_s)

    def y(self, seconds: float) -> float:
        share = math.log10(max(seconds, self._least_s) / self._least_s) / self._span
        return self.bottom - share * (self.bottom - self.top)


def kind_of(call: Call, recording: Recording, promises: Promises) -> str:
    """Return which of KINDS a call is."""
    if call.is_answered:
        return "retried" if call.retries else "ok"
    if is_lost(call, recording, promises):
        return "lost"
    return "away" if call.turned_away else "failed"


def timeline(recording: Recording, promises: Promises) -> str:
    """Return the picture of a scenario as an SVG element."""
    return "\n".join(_Picture(recording, promises).parts())


class _Picture:
    def __init__(self, recording: Recording, promises: Promises) -> None:
        self._recording = recording
        self._promises = promises
        self._bound_s = recording.call_s + promises.grace_s
        self._end_s = max(1.0, recording.ended_s, *(call.ended_s for call in recording.calls))
        longest_s = max((call.took_s for call in recording.calls), default=0.0)
        nearest_s = max((call.took_s for call in recording.neighbours), default=0.0)
        self._calls = _Lane(_CALLS, _LEAST_S, 1.3 * max(self._bound_s, longest_s))
        self._near = _Lane(_NEIGHBOURS, _NEAR_LEAST_S, 1.3 * max(0.1, nearest_s))

    def parts(self) -> Iterator[str]:
        recording = self._recording
        label = escape(f"{recording.scenario}: {recording.summary}")
        yield f'<svg class="timeline" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">'
        yield from self._fault()
        yield from self._rules(self._calls)
        yield from self._seconds()
        yield from self._bound()
        yield from self._points()
        yield from self._probe()
        yield _words("lane", _LEFT, _CALLS[0] - 14, "a call's seconds")
        yield _words("lane", _LEFT - 8, _PROBE[1], "probe", anchor="end")
        if recording.neighbours:
            yield from self._rules(self._near)
            yield from self._neighbours()
            yield _words("lane", _LEFT, _NEIGHBOURS[0] - 6, "a neighbour's seconds")
        yield "</svg>"

    def _x(self, seconds: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * min(max(seconds, 0.0), self._end_s) / self._end_s

    def _fault(self) -> Iterator[str]:
        fault = self._recording.fault
        if fault.struck_s is None:
            return
        left = self._x(fault.struck_s)
        width = max(2.0, self._x(self._end_s if fault.ended_s is None else fault.ended_s) - left)
        top, height = _CALLS[0] - 8, _NEIGHBOURS[1] - _CALLS[0] + 8
        yield f'<rect class="fault" x="{left:.1f}" y="{top}" width="{width:.1f}" height="{height}"/>'
        yield _words("fault-name", left, top - 6, "fault")
        back_s = self._recording.back_s()
        if back_s is not None and not all(probe.answered for probe in self._recording.probes):
            at = self._x(back_s)
            yield f'<line class="back" x1="{at:.1f}" x2="{at:.1f}" y1="{top}" y2="{_NEIGHBOURS[1]}"/>'
            yield _words("back-name", max(at, left + _WORD / 2), top - 6, "reachable again")

    def _rules(self, lane: _Lane) -> Iterator[str]:
        for seconds in _SECONDS:
            if seconds <= lane.most_s:
                y = lane.y(seconds)
                yield f'<line class="rule" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
                shown = f"{seconds:g} s" if seconds >= 1 else f"{seconds * 1000:g} ms"
                yield _words("tick", _LEFT - 8, y + 4, shown, anchor="end")

    def _seconds(self) -> Iterator[str]:
        step = next((step for step in _STEPS if self._end_s / step <= _TICKS), _STEPS[-1])
        for number in range(int(self._end_s / step) + 1):
            seconds = number * step
            unit = " s" if number == 0 else ""
            yield _words("tick", self._x(seconds), _HEIGHT - 8, f"{seconds:g}{unit}", anchor="middle")

    def _bound(self) -> Iterator[str]:
        y = self._calls.y(self._bound_s)
        yield f'<line class="bound" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        text = f"call_s + {self._promises.grace_s:g} s = {self._bound_s:g} s"
        yield _words("bound-name", _WIDTH - _RIGHT, y - 4, text, anchor="end")

    def _points(self) -> Iterator[str]:
        by_kind: dict[str, list[Call]] = {kind: [] for kind in KINDS}
        for call in self._recording.calls:
            by_kind[kind_of(call, self._recording, self._promises)].append(call)
        for kind, calls in by_kind.items():
            # What went wrong can be asked, by pointing at it, as long as there are not too many.
            named = calls[:_NAMED_POINTS] if kind in ("failed", "lost", "retried") else []
            yield _dots(kind, ((self._x(c.began_s), self._calls.y(c.took_s)) for c in calls[len(named) :]))
            for call in named:
                yield _named_dot(kind, self._x(call.began_s), self._calls.y(call.took_s), _told(call))

    def _probe(self) -> Iterator[str]:
        top, height = _PROBE[0], _PROBE[1] - _PROBE[0]
        yield f'<rect class="probe-lane" x="{_LEFT}" y="{top}" width="{_WIDTH - _LEFT - _RIGHT}" height="{height}"/>'
        # An answer holds since the try before it if that was answered, too; a try in vain, since its own start.
        spans: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
        before_s, was_answered = 0.0, True
        for it in sorted(self._recording.probes, key=lambda it: it.ended_s):
            since_s = before_s if it.answered is was_answered else it.began_s
            spans[it.answered].append((since_s if it.answered else min(since_s, it.began_s), it.ended_s))
            before_s, was_answered = it.ended_s, it.answered
        for kind, found in (("probe-ok", True), ("probe-failed", False)):
            marks = [f"M{self._x(a):.1f} {top}H{self._x(b):.1f}v{height}H{self._x(a):.1f}z" for a, b in spans[found]]
            if marks:
                yield f'<path class="{kind}" d="{"".join(marks)}"/>'

    def _neighbours(self) -> Iterator[str]:
        calls = self._recording.neighbours
        for kind, chosen in (
            ("near", [call for call in calls if call.outcome == OK]),
            ("lost", [call for call in calls if call.outcome != OK]),
        ):
            yield _dots(kind, ((self._x(call.began_s), self._near.y(call.took_s)) for call in chosen))


def _told(call: Call) -> str:
    tried = f", tried again {call.retries} times" if call.retries > 1 else ", tried again once" if call.retries else ""
    message = f": {call.message}" if call.message else ""
    return f"{call.outcome} after {call.took_s:.2f} s{tried}{message}"


def _dots(kind: str, places: Iterable[tuple[float, float]]) -> str:
    marks = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in places)
    return f'<path class="dots {kind}" d="{marks}"/>' if marks else ""


def _named_dot(kind: str, x: float, y: float, title: str) -> str:
    return f'<circle class="dot {kind}" cx="{x:.1f}" cy="{y:.1f}" r="3.2"><title>{escape(title)}</title></circle>'


def _words(kind: str, x: float, y: float, text: str, *, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
