"""Whether a scenario kept the promises: which reads were lost, who was late, and what the numbers are. Pure.

The promises are those of docs/resilience.md. A verdict names each promise that was broken.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from gateway.drill_records import Call, Recording
from gateway.drill_report import NeighbourNumbers, Promises, Verdict


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the nearest-rank percentile: the least value that `share` of them do not exceed."""
    if not values:
        return None
    ranked = sorted(values)
    return ranked[max(0, math.ceil(share * len(ranked)) - 1)]


def is_lost(call: Call, recording: Recording, promises: Promises) -> bool:
    """Say whether a call failed although there was time to answer it.

    That is: a probe sent after both the fault and the call began was answered before the call's time was up, and what
    was left of it would have done for the read itself, as it is without a fault. A call that an open breaker turned
    away in milliseconds counts once the database has been back for `recover_s`: to be told at once that it is gone is
    what the breaker is for.
    """
    if call.is_answered:
        return False
    if call.turned_away:
        back_s = _reachable_since(recording, call.began_s)
        return back_s is not None and call.began_s - back_s > promises.recover_s
    fault = recording.fault
    if fault.struck_s is None or fault.in_place_s is None or call.ended_s < fault.struck_s:
        return True  # without a fault the database was there
    since = max(call.began_s, fault.in_place_s)
    deadline_s = call.began_s + recording.call_s - _undisturbed_s(call.caller, recording)
    return any(probe.answered and probe.began_s >= since and probe.ended_s < deadline_s for probe in recording.probes)


def _undisturbed_s(caller: int, recording: Recording) -> float:
    """Return what a caller's reads took before the fault, as a rule."""
    struck_s = recording.fault.struck_s or 0.0
    calm = [it.took_s for it in recording.calls if it.caller == caller and it.is_answered and it.ended_s < struck_s]
    return percentile(calm, 0.5) or 0.0


def _reachable_since(recording: Recording, moment_s: float) -> float | None:
    """Return since when every probe that had ended by `moment_s` was answered, None if the last one was not."""
    since: float | None = None
    for probe in sorted(recording.probes, key=lambda it: it.ended_s):
        if probe.ended_s > moment_s:
            break
        since = (probe.ended_s if since is None else since) if probe.answered else None
    return since


def judge(recording: Recording, promises: Promises) -> Verdict:
    """Return the numbers of a scenario, and which promises it broke."""
    calls = recording.calls
    failed = [call for call in calls if not call.is_answered]
    lost = [call for call in failed if is_lost(call, recording, promises)]
    longest_s = max((call.took_s for call in calls), default=0.0)
    back_s, recovered_s = recording.back_s(), recording.recovered_s()
    recover_s = None if back_s is None or recovered_s is None else max(0.0, recovered_s - back_s)
    neighbours = _neighbours(recording)
    reasons = [
        *_about_calls(recording, lost, longest_s, promises),
        *_about_recovery(back_s, recovered_s, recover_s, promises),
        *_about_neighbours(neighbours, promises),
    ]
    return Verdict(
        scenario=recording.scenario,
        summary=recording.summary,
        calls=len(calls),
        answered=len(calls) - len(failed),
        failed=dict(Counter(call.outcome for call in failed).most_common()),
        turned_away=sum(call.turned_away for call in failed),
        lost=len(lost),
        longest_s=longest_s,
        notice_s=_notice_s(recording),
        unreachable_s=_unreachable_s(recording),
        recover_s=recover_s,
        retried=sum(call.retries > 0 for call in calls),
        retries=sum(call.retries for call in calls),
        neighbours=neighbours,
        reasons=tuple(reasons),
    )


def _about_calls(recording: Recording, lost: list[Call], longest_s: float, promises: Promises) -> list[str]:
    reasons = []
    if not any(call.is_answered for call in recording.calls):
        reasons.append("no read was answered")
    if lost:
        (outcome, message), count = Counter((call.outcome, call.message) for call in lost).most_common(1)[0]
        reasons.append(
            f"{len(lost)} {'read was' if len(lost) == 1 else 'reads were'} lost although savable, "
            f"{count} of them by {outcome}: {message or 'without a message'}"
        )
    most_s = recording.call_s + promises.grace_s
    if longest_s > most_s:
        reasons.append(f"a call took {longest_s:.1f} s, more than call_s + {promises.grace_s:g} s = {most_s:g} s")
    return reasons


def _about_recovery(
    back_s: float | None, recovered_s: float | None, recover_s: float | None, promises: Promises
) -> list[str]:
    if back_s is None:
        return ["the probe did not reach the database again, so nothing can be said about recovery"]
    if recovered_s is None or recover_s is None:
        return ["no read was answered after the fault"]
    if recover_s > promises.recover_s:
        return [f"the first read was answered {recover_s:.1f} s after the probe, {promises.recover_s:g} s are promised"]
    return []


def _about_neighbours(neighbours: Sequence[NeighbourNumbers], promises: Promises) -> list[str]:
    reasons = []
    for it in neighbours:
        most_s = it.most_s(promises)
        if it.failed:
            reasons.append(f"{it.failed} {'call' if it.failed == 1 else 'calls'} of the neighbour {it.profile} failed")
        if most_s is not None and it.during_s is not None and it.during_s > most_s:
            reasons.append(
                f"the p95 of the neighbour {it.profile} went from {_ms(it.before_s)} to {_ms(it.during_s)}, "
                f"at most {_ms(most_s)} are promised"
            )
    return reasons


def _notice_s(recording: Recording) -> float | None:
    struck_s = recording.fault.struck_s
    if struck_s is None:
        return None
    signs = [sign for call in recording.calls for sign in call.retried_s]
    signs += [call.ended_s for call in recording.calls if not call.is_answered]
    first_s = min((sign for sign in signs if sign >= struck_s), default=None)
    return None if first_s is None else first_s - struck_s


def _unreachable_s(recording: Recording) -> float | None:
    struck_s, back_s = recording.fault.struck_s, recording.back_s()
    if struck_s is None or back_s is None:
        return None
    was_gone = any(not probe.answered and struck_s <= probe.ended_s <= back_s for probe in recording.probes)
    return back_s - struck_s if was_gone else None


def _neighbours(recording: Recording) -> tuple[NeighbourNumbers, ...]:
    struck_s = recording.fault.struck_s
    over_s = max(recording.back_s() or math.inf, recording.recovered_s() or math.inf)
    if struck_s is not None:
        # As many calls as before the fault, however short it was: a p95 of three calls is their maximum.
        over_s = max(over_s, 2 * struck_s)
    numbers = []
    for profile in dict.fromkeys(call.profile for call in recording.neighbours):
        own = [call for call in recording.neighbours if call.profile == profile]
        before = [call.took_s for call in own if struck_s is None or call.ended_s < struck_s]
        during = [
            call.took_s for call in own if struck_s is not None and struck_s <= call.ended_s and call.began_s < over_s
        ]
        numbers.append(
            NeighbourNumbers(
                profile=profile,
                before_s=percentile(before, 0.95),
                during_s=percentile(during, 0.95),
                fewest=min(len(before), len(during)),
                failed=sum(call.outcome != "ok" for call in own),
            )
        )
    return tuple(numbers)


def _ms(seconds: float | None) -> str:
    return "nothing" if seconds is None else f"{seconds * 1000:.1f} ms"
