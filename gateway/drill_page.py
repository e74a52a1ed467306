"""A drill as one HTML page that needs nothing else: the table, and a timeline for each scenario. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from importlib.resources import files

from gateway.drill_records import Recording
from gateway.drill_report import Report, Verdict
from gateway.drill_table import failed_text, neighbour_text, seconds_text
from gateway.drill_timeline import KINDS, timeline


def _style() -> str:
    return files("gateway").joinpath("drill_page.css").read_text("utf-8")


def html_page(report: Report) -> str:
    """Return the whole page. It asks for nothing over the network, and holds no script."""
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>Drill of {escape(report.profile)}</title><style>{_style()}</style></head><body><main>",
            *_head(report),
            *_table(report),
            *_legend(),
            *(part for recording, verdict in report.done for part in _section(recording, verdict, report)),
            *_foot(report),
            "</main></body></html>\n",
        ]
    )


def _badge(*, passed: bool, text: str | None = None) -> str:
    return f'<span class="verdict {"pass" if passed else "fail"}">{text or ("pass" if passed else "fail")}</span>'


def _head(report: Report) -> Iterator[str]:
    verdicts = report.verdicts
    kept = sum(verdict.is_passed for verdict in verdicts)
    yield f"<h1>Drill of {escape(report.profile)}</h1>"
    about = (report.address, report.began_at, f"pg-gateway {report.version}")
    yield f'<p class="soft">{" · ".join(escape(text) for text in about)}</p>'
    if report.interrupted is not None:
        yield f'<p class="soft">Interrupted in <b>{escape(report.interrupted)}</b>; here is what was done by then.</p>'
    facts = (
        (f"{kept} of {len(verdicts)}", "scenarios passed"),
        (f"{sum(verdict.calls for verdict in verdicts):,}".replace(",", " "), f"reads, {report.callers} callers"),
        (str(sum(verdict.lost for verdict in verdicts)), "lost although savable"),
        (
            seconds_text(max((verdict.longest_s for verdict in verdicts), default=None)),
            f"longest, call_s is {report.call_s:g}",
        ),
        (
            seconds_text(max((v.recover_s for v in verdicts if v.recover_s is not None), default=None)),
            "slowest recovery",
        ),
    )
    yield '<div class="facts">'
    for value, words in facts:
        yield f'<div class="fact"><b>{escape(value)}</b><span>{escape(words)}</span></div>'
    yield "</div>"


def _table(report: Report) -> Iterator[str]:
    names = ("calls", "answered", "failed", "lost", "longest", "notice", "recover", "retries", "neighbours' p95")
    yield '<div class="scroll"><table><thead><tr><th>scenario</th>'
    yield "".join(f"<th{' class=left' if name == 'failed' else ''}>{name}</th>" for name in names)
    yield "<th>verdict</th></tr></thead><tbody>"
    for verdict in report.verdicts:
        cells = (
            f'<td><a href="#{escape(verdict.scenario)}">{escape(verdict.scenario)}</a></td>',
            f"<td>{verdict.calls}</td><td>{verdict.answered}</td>",
            f'<td class="left">{escape(failed_text(verdict))}</td><td>{verdict.lost}</td>',
            f"<td>{seconds_text(verdict.longest_s)}</td><td>{seconds_text(verdict.notice_s)}</td>",
            f"<td>{seconds_text(verdict.recover_s)}</td><td>{verdict.retries}</td>",
            f"<td>{escape(neighbour_text(verdict.neighbours))}</td><td>{_badge(passed=verdict.is_passed)}</td>",
        )
        yield f"<tr>{''.join(cells)}</tr>"
    yield "</tbody></table></div>"


def _legend() -> Iterator[str]:
    yield '<div class="legend">'
    for kind, words in KINDS.items():
        yield f'<span><i class="{kind}"></i>{words}</span>'
    yield '<span><i class="near"></i>another profile</span><span><i class="bar span"></i>the fault</span>'
    yield '<span><i class="bar up"></i>the probe was answered</span><span><i class="bar down"></i>it was not</span>'
    yield "</div>"


def _section(recording: Recording, verdict: Verdict, report: Report) -> Iterator[str]:
    yield f'<section id="{escape(verdict.scenario)}"><header><h2>{escape(verdict.scenario)}</h2>'
    yield f'{_badge(passed=verdict.is_passed)}<span class="soft">{escape(verdict.summary)}</span></header>'
    numbers = [("", f"{verdict.answered} of {verdict.calls} answered"), ("longest ", seconds_text(verdict.longest_s))]
    for words, seconds in (
        ("noticed after ", verdict.notice_s),
        ("database back after ", verdict.unreachable_s),
        ("reads again within ", verdict.recover_s),
    ):
        if seconds is not None:
            numbers.append((words, seconds_text(seconds)))
    if verdict.retries:
        numbers.append(("", f"{verdict.retries} retries in {verdict.retried} calls"))
    yield f'<p class="numbers">{" · ".join(f"{words}<b>{escape(value)}</b>" for words, value in numbers)}</p>'
    if verdict.reasons:
        yield f'<ul class="reasons">{"".join(f"<li>{escape(reason)}</li>" for reason in verdict.reasons)}</ul>'
    yield timeline(recording, report.promises)
    yield "</section>"


def _foot(report: Report) -> Iterator[str]:
    promises = report.promises
    yield f"<footer><p>Made by <code>{escape(report.command)}</code></p>"
    yield (
        f"<p>A scenario passes when no read is lost that could have been saved, no call takes longer than call_s + "
        f"{promises.grace_s:g} s, reads are answered within {promises.recover_s:g} s of the probe, no neighbour's call "
        f"fails, and their p95 stays below {promises.neighbour_factor:g} times what it was, or grows by less than "
        f"{promises.neighbour_floor_s * 1000:g} ms. Points stand where a call began; the scales of seconds are "
        "logarithmic.</p>"
    )
    if report.left_out:
        left = "; ".join(f"{name}: {reason}" for name, reason in report.left_out.items())
        yield f"<p>Left out as neighbours: {escape(left)}</p>"
    yield "</footer>"
