"""Recordings of a drill made by hand: ten seconds calm, a fault from 10 s to 14 s, and what follows."""

from __future__ import annotations

from gateway.drill_records import Call, Fault, NeighbourCall, ProbeTry, Recording

CALL_S = 10.0


def call(began_s: float, ended_s: float, outcome: str = "ok", **changes: object) -> Call:
    """Return a call of the first caller; `changes` are fields of Call."""
    values: dict[str, object] = {"caller": 0, "began_s": began_s, "ended_s": ended_s, "outcome": outcome}
    return Call(**{**values, **changes})  # type: ignore[arg-type] # the fields' own types


def probe(began_s: float, ended_s: float, *, answered: bool = True) -> ProbeTry:
    return ProbeTry(began_s=began_s, ended_s=ended_s, answered=answered)


def neighbour(began_s: float, took_s: float, *, outcome: str = "ok", profile: str = "near") -> NeighbourCall:
    return NeighbourCall(profile=profile, began_s=began_s, ended_s=began_s + took_s, outcome=outcome)


def recording(
    *calls: Call, probes: tuple[ProbeTry, ...] | None = None, neighbours: tuple[NeighbourCall, ...] = ()
) -> Recording:
    """Return a recording with these calls; by default the probe is answered before the fault and from 14.3 s on."""
    if probes is None:
        probes = (
            probe(9.0, 9.1),
            probe(10.2, 10.3, answered=False),
            probe(13.8, 13.9, answered=False),
            probe(14.2, 14.3),
            probe(15.0, 15.1),
            probe(19.0, 19.1),
        )
    return Recording(
        scenario="refused",
        summary="connections are refused",
        call_s=CALL_S,
        fault=Fault(struck_s=10.0, in_place_s=10.05, ended_s=14.0),
        calls=list(calls),
        probes=list(probes),
        neighbours=list(neighbours),
        ended_s=max([20.0, *(it.ended_s for it in calls)]),
    )
