"""Every harmless statement of the corpus is answered by a real gateway, as reader and as superuser: none is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from gateway.app import Gateway
from gateway.errors import PermissionDenied
from tests.corpus.harmless import HARMLESS, Harmless
from tests.support.corpus_server import CorpusServer
from tests.support.effects import Trap
from tests.support.gateway import call, config_of, profile_of
from tests.support.strikes import ROLES

pytestmark = pytest.mark.anyio

# What the server keeps from an ordinary role, whatever the gateway thinks of it.
NEEDS_A_RIGHT = {("reader", "show-14"): "shared_preload_libraries is for pg_read_all_settings"}


@dataclass(frozen=True, slots=True)
class Shop:
    """The corpus's database, and a gateway with a profile per role."""

    gateway: Gateway
    corpus: CorpusServer


@pytest.fixture(scope="module")
async def shop(anyio_backend: str) -> AsyncIterator[Shop]:  # noqa: ARG001 - the loop of the whole session
    async with (
        Trap.open() as trap,
        CorpusServer.run(dial_port=trap.port) as corpus,
        corpus.database("corpus") as database,  # one statement names it
        Gateway(
            config_of(*(profile_of(database, role, as_superuser=role == "superuser") for role in ROLES)), environ={}
        ) as gateway,
    ):
        yield Shop(gateway, corpus)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("harmless", HARMLESS, ids=lambda harmless: harmless.id)
async def test_a_harmless_statement_is_answered(harmless: Harmless, role: str, shop: Shop) -> None:
    if shop.corpus.major_version < harmless.since:
        pytest.skip(f"the syntax is PostgreSQL {harmless.since}'s")
    if missing := set(harmless.needs) - shop.corpus.extensions:
        pytest.skip(f"this PostgreSQL has no {', '.join(sorted(missing))}")

    asked = call(
        shop.gateway, "execute_query", query=harmless.sql, params=list(harmless.params), profile=role, limit=1000
    )
    if (role, harmless.id) in NEEDS_A_RIGHT:
        with pytest.raises(PermissionDenied):
            await asked
        return
    answer = await asked

    assert answer["profile"] == role
    assert len(answer["rows"]) == answer["row_count"]
    assert all(len(row) == len(answer["columns"]) for row in answer["rows"])


@pytest.mark.parametrize("role", ROLES)
async def test_the_verdict_can_be_asked_for_without_running_anything(role: str, shop: Shop) -> None:
    profile = shop.gateway.resolve(role)

    known = [
        harmless
        for harmless in HARMLESS
        if shop.corpus.major_version >= harmless.since and shop.corpus.extensions.issuperset(harmless.needs)
    ]

    verdicts = {harmless.id: await shop.gateway.explain(harmless.sql, profile, offline=False) for harmless in known}

    assert not {name: verdict["message"] for name, verdict in verdicts.items() if verdict["verdict"] != "allowed"}
