"""Every attack of the corpus through a real gateway, as the reader of docs/security.md and as superuser: no effect.

Whether the gateway refuses is of second order; that nothing has happened is measured on the server (`effects.py`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.corpus.attacks import ATTACKS
from tests.support.corpus_server import CorpusServer
from tests.support.effects import Trap
from tests.support.strikes import ROLES, Strike, Strikes

pytestmark = pytest.mark.anyio

KINDS = tuple(dict.fromkeys(attack.kind for attack in ATTACKS))
# Seconds of a server's work each; one role shows the same as two.
SLOW = {("superuser", "time"), ("superuser", "size")}
CASES = [
    pytest.param(role, kind, marks=[pytest.mark.slow] if (role, kind) in SLOW else [], id=f"{kind}-{role}")
    for kind in KINDS
    for role in ROLES
]
# What no gate can stop (docs/security.md): role, attack, the effect that may be seen, why.
UNSTOPPABLE = (
    ("superuser", "leak-31", "the reply shows sk-not-for-you", "a superuser has been granted every table"),
    ("reader", "time-11", "a backend is still at work", "normalize() asks for no interrupts until it is done"),
    ("superuser", "time-11", "a backend is still at work", "normalize() asks for no interrupts until it is done"),
)


@pytest.fixture(scope="module")
async def trap(anyio_backend: str) -> AsyncIterator[Trap]:  # noqa: ARG001 - the loop of the whole session
    async with Trap.open() as opened:
        yield opened


@pytest.fixture(scope="module")
async def corpus(trap: Trap) -> AsyncIterator[CorpusServer]:
    async with CorpusServer.run(dial_port=trap.port) as server:
        yield server


@pytest.fixture(scope="module")
async def strikes(corpus: CorpusServer, trap: Trap) -> AsyncIterator[Strikes]:
    async with Strikes.on(corpus, trap) as ready:
        yield ready


def unexpected(strike: Strike, role: str) -> list[str]:
    """Return the effects that no row of UNSTOPPABLE explains."""
    explained = [effect for who, attack, effect, _ in UNSTOPPABLE if (who, attack) == (role, strike.attack.id)]
    return [effect for effect in strike.effects if effect not in explained]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("role", "kind"), CASES)
async def test_an_attack_has_no_effect(role: str, kind: str, strikes: Strikes) -> None:
    attacks = [attack for attack in ATTACKS if attack.kind == kind]

    struck = await strikes.run(attacks, role=role)

    assert struck
    assert not [str(strike) for strike in struck if unexpected(strike, role)]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("kind", KINDS)
async def test_the_verdict_with_the_functions_of_the_database_is_the_one_of_the_table(
    role: str, kind: str, strikes: Strikes
) -> None:
    rows = [attack for attack in ATTACKS if attack.kind == kind and strikes.extensions.issuperset(attack.needs)]

    verdicts = {attack.id: (await strikes.explain(attack, role=role))["verdict"] for attack in rows}

    assert verdicts == {attack.id: "refused" if attack.gate == "refused" else "allowed" for attack in rows}
