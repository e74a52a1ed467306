"""What the layers behind the guard stop alone: every attack of the corpus again, with a guard that refuses nothing.

Statements run raw through a portal, which is more than the gateway lets through; those against the wrapper and the
limits of size run inside it. `pytest -m slow -s tests/integration/test_guard_off.py` prints the table of
docs/security.md. Without `slow` only the promises are held.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from gateway.sql_guard import Judged
from tests.corpus.attacks import ATTACKS
from tests.support.corpus_server import CorpusServer
from tests.support.effects import Trap
from tests.support.strikes import ROLES, Strike, Strikes

pytestmark = pytest.mark.anyio

KINDS = tuple(dict.fromkeys(attack.kind for attack in ATTACKS))
# Against the wrapper around a SELECT, and what it is there for.
IN_THE_WRAPPER = ("wrap", "size")
# What happens inside the transaction goes with it, and the session is reset: nothing of these classes may last. A
# policy's setting that is changed inside the statement ("rls") is rolled back, too, but rows have been read by then.
BOUND = (
    *("stacked", "dml", "ddl", "cte-write", "into", "row-lock", "sequence", "large-object", "session", "lock"),
    *("notify", "hidden", "explain", "wrap", "input"),
)
# What of these lasts all the same, and why only the guard stops it.
LASTS = {
    "notify-08": "pg_logical_emit_message: a message outside of transactions",
    "notify-09": "pg_logical_emit_message: its record is written, though decoders skip what is rolled back",
}


def _raw(sql: str, **_: Any) -> Judged:
    return Judged(kind="explain", sql=sql, offset=0)


def _wrapped(sql: str, **_: Any) -> Judged:
    return Judged(kind="select", sql=sql, offset=0)


@pytest.fixture(scope="module")
async def trap(anyio_backend: str) -> AsyncIterator[Trap]:  # noqa: ARG001 - the loop of the whole session
    async with Trap.open() as opened:
        yield opened


@pytest.fixture(scope="module")
async def corpus(trap: Trap) -> AsyncIterator[CorpusServer]:
    async with CorpusServer.run(dial_port=trap.port) as server:
        yield server


@pytest.fixture(scope="module")
def table() -> Iterator[dict[tuple[str, str], list[Strike]]]:
    """Collect what was measured, and print it at the end."""
    measured: dict[tuple[str, str], list[Strike]] = {}
    yield measured
    print("\n\n| class | attacks | harm as superuser | harm as reader |\n|---|---|---|---|")
    for kind in (*KINDS, "all"):
        of_kind = [[s for k in (KINDS if kind == "all" else (kind,)) for s in measured.get((r, k), [])] for r in ROLES]
        reader, superuser = (f"{sum(bool(s.effects) for s in strikes)}" for strikes in of_kind)
        print(f"| {kind} | {max(map(len, of_kind))} | {superuser} | {reader} |")


async def _strikes(corpus: CorpusServer, trap: Trap, *, role: str, kind: str) -> list[Strike]:
    guard = _wrapped if kind in IN_THE_WRAPPER else _raw
    async with Strikes.on(corpus, trap, guard=guard) as strikes:
        return await strikes.run([attack for attack in ATTACKS if attack.kind == kind], role=role)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("kind", BOUND)
async def test_what_is_bound_to_the_transaction_or_the_session_leaves_nothing(
    role: str, kind: str, corpus: CorpusServer, trap: Trap
) -> None:
    struck = await _strikes(corpus, trap, role=role, kind=kind)

    assert struck
    assert not [str(strike) for strike in struck if strike.effects and strike.attack.id not in LASTS]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("kind", KINDS)
async def test_the_other_layers_answer_in_time_and_keep_the_next_caller_apart(
    role: str, kind: str, corpus: CorpusServer, trap: Trap, table: dict[tuple[str, str], list[Strike]]
) -> None:
    struck = table[role, kind] = await _strikes(corpus, trap, role=role, kind=kind)

    for strike in struck:
        if strike.effects:
            print(f"\n{role}: {str(strike)[:300]}")
    assert not [str(strike) for strike in struck if strike.outcome == "no answer"]
    # PREPARE and DEALLOCATE outlive a transaction; nothing else is found by the next caller.
    found_by_next = [s for s in struck if s.attack.kind != "prepared" and any("session" in e[:8] for e in s.effects)]
    assert not [str(strike) for strike in found_by_next]


async def test_the_measurement_sees_harm_where_only_the_guard_stands(corpus: CorpusServer, trap: Trap) -> None:
    struck = await _strikes(corpus, trap, role="superuser", kind="file-read")

    assert any(strike.effects for strike in struck)
