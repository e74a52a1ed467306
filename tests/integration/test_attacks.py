"""Every attack of the corpus through a real gateway, as the reader of docs/security.md and as superuser: no effect.

Whether the gateway refuses is of second order; that nothing has happened is measured on the server (`effects.py`).
"""

from __future__ import annotations

import re
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
    rows = [attack for attack in ATTACKS if attack.kind == kind]

    verdicts = {attack.id: (await strikes.explain(attack, role=role))["verdict"] for attack in rows}

    assert verdicts == {attack.id: "refused" if attack.gate == "refused" else "allowed" for attack in rows}


async def test_the_probe_sees_what_happens_when_nothing_stops_a_statement(corpus: CorpusServer, trap: Trap) -> None:
    seen = {
        "CREATE TABLE public.pwned (id int)": "pg_class",
        "UPDATE public.orders SET id = id": "orders",
        "SELECT nextval('public.order_numbers')": "order_numbers",
        "ALTER SYSTEM SET work_mem = '1GB'": "setting files",
        "SELECT lo_unlink(4711)": "pg_largeobject",
        "SELECT pg_notify('attack', 'x')": "notification",
        "SELECT pg_advisory_lock(1)": "locks",
        "SELECT pg_stat_reset()": "reset",
        "SELECT pg_reload_conf()": "SIGHUP",
        "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query = $$SELECT pg_sleep(3600)$$": "sleeping session",
        "SELECT pg_create_physical_replication_slot('pwned')": "slots",
        "COPY (SELECT 1) TO '/tmp/pwned'": "/tmp/pwned",
        "CHECKPOINT": "checkpoint",
    }
    found = {}
    async with Strikes.on(corpus, trap) as strikes:
        for sql in seen:
            found[sql] = await strikes.effects_of(sql)

    assert not {sql: found[sql] for sql, word in seen.items() if not re.search(re.escape(word), " ".join(found[sql]))}


async def test_a_probe_that_looks_at_reads_sees_nothing(corpus: CorpusServer, trap: Trap) -> None:
    async with Strikes.on(corpus, trap) as strikes:
        assert not await strikes.effects_of("SELECT count(*) FROM public.orders")
