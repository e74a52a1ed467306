"""What is tried in a network of its own, where packets are dropped: run by `test_silent_network`, which judges it.

One server on many addresses of the loopback, one scenario for each, all side by side: every scenario silences its own
address and has a gateway, a role and a table to itself. A statement is held in the database by a lock on its table.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import orjson

from gateway.app import Gateway
from gateway.embedded import EmbeddedServer
from gateway.errors import GatewayError
from gateway.profiles import Endpoint, Limits, PoolSettings, Profile, Tls
from gateway.progress import Waiting
from gateway.tools import TOOLS
from tests.support.gateway import config_of
from tests.support.namespace import Network
from tests.support.polling import until
from tests.support.postgres import chosen_binaries, quick_folder

POOL_MAX = 3
PASSWORD = secrets.token_urlsafe(12)
EXECUTE = next(tool for tool in TOOLS if tool.name == "execute_query")


Scenario = Callable[["Place"], Awaitable[dict[str, Any]]]


@dataclass(kw_only=True)
class Call:
    """One call, while it runs and afterwards."""

    code: str = ""
    message: str = ""
    waited_for: str | None = None
    seconds: float = 0.0
    retries: int = 0
    waiting: Waiting | None = field(default=None, repr=False)

    def told(self) -> dict[str, Any]:
        return {
            "code": self.code,
            "message": self.message,
            "waited_for": self.waited_for,
            "seconds": self.seconds,
            "retries": self.retries,
        }


@dataclass
class Place:
    """Where one scenario takes place."""

    name: str
    address: str
    network: Network
    server: EmbeddedServer
    admin: asyncpg.Connection[Any]

    def profile(self, *, call_s: float, host: str | None = None, lowest: int = 0) -> Profile:
        return Profile(
            name=self.name,
            endpoints=(Endpoint(host=host or self.address, port=self.server.port),),
            database="postgres",
            user=self.name,
            password=f"literal:{PASSWORD}",
            tls=Tls(mode="disable"),
            pool=PoolSettings(min=lowest, max=POOL_MAX),
            limits=Limits(call_s=call_s, statement_s=call_s, acquire_s=call_s / 2),
        )

    @asynccontextmanager
    async def gateway(self, *, call_s: float, host: str | None = None) -> AsyncIterator[Gateway]:
        async with Gateway(config_of(self.profile(call_s=call_s, host=host)), environ={}) as gateway:
            yield gateway

    def start(self, gateway: Gateway, *, held: bool = False) -> tuple[Call, asyncio.Task[Call]]:
        """Start a call, of the table that `holding` locks if it is `held`."""
        made = Call()
        return made, asyncio.create_task(self._run(gateway, made, f"SELECT 1 FROM {self.name}" if held else "SELECT 1"))

    async def _run(self, gateway: Gateway, made: Call, query: str) -> Call:
        def tell(waiting: Waiting) -> None:
            made.waiting, made.retries = waiting, waiting.retries

        started = time.monotonic()
        try:
            await EXECUTE.run(gateway, EXECUTE.check({"query": query}), tell=tell)
            made.code = "ok"
        except GatewayError as error:
            made.code, made.message = error.code, error.message
            made.waited_for = error.details.get("waited_for")
        made.seconds = time.monotonic() - started
        return made

    async def calls(self, gateway: Gateway, count: int) -> list[dict[str, Any]]:
        """Return what so many calls at once have met."""
        return [call.told() for call in await asyncio.gather(*(self.start(gateway)[1] for _ in range(count)))]

    async def first_answer_s(self, gateway: Gateway) -> float:
        """Return how long it takes from now on until a call is answered."""
        started = time.monotonic()

        async def answers() -> bool:
            return (await self.start(gateway)[1]).code == "ok"

        await until(answers)
        return time.monotonic() - started

    @asynccontextmanager
    async def holding(self) -> AsyncIterator[None]:
        """Keep every statement on the table waiting."""
        connection = await asyncpg.connect(self.server.dsn(), ssl=False, timeout=10)
        try:
            async with connection.transaction():
                await connection.execute(f"LOCK TABLE {self.name} IN ACCESS EXCLUSIVE MODE")
                yield
        finally:
            await connection.close(timeout=5)

    async def settled(self, gateway: Gateway) -> None:
        """Wait until nothing is on its way any more: no reset of a connection, no acknowledgement."""

        def is_settled() -> bool:
            return gateway.pool_stats()[self.name].busy == 0 and self.network.is_quiet(self.address)

        assert await until(is_settled)

    async def backends(self, *, active: bool = False) -> int:
        """Count the server processes of this scenario's gateway."""
        found = await self.admin.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE usename = $1 AND (NOT $2 OR state = 'active')",
            self.name,
            active,
        )
        return int(found)

    async def active_gone_s(self) -> float | None:
        """Return how long it took until no statement runs any more; None after 15 s."""
        started = time.monotonic()

        async def are_gone() -> bool:
            return await self.backends(active=True) == 0

        return time.monotonic() - started if await until(are_gone, within_s=15.0) else None

    async def leaked_gone_s(self, gateway: Gateway) -> float | None:
        """Return how long it took until the server has no session but the pool's; None after 40 s.

        What the gateway gave up in a silence the server has to notice by itself.
        """
        started = time.monotonic()

        async def are_gone() -> bool:
            return await self.backends() <= gateway.pool_stats()[self.name].size

        return time.monotonic() - started if await until(are_gone, within_s=40.0) else None

    async def in_flight(self, gateway: Gateway) -> tuple[Call, asyncio.Task[Call]]:
        """Start a call whose statement waits in the database, and return it then."""
        made, task = self.start(gateway, held=True)

        async def is_active() -> bool:
            return await self.backends(active=True) == 1

        assert await until(is_active), made.message
        return made, task


async def given_up_in_flight(place: Place) -> dict[str, Any]:
    """Let the link fall silent under a statement, for longer than the call has."""
    async with place.gateway(call_s=4.0) as gateway:
        await place.first_answer_s(gateway)
        async with place.holding():
            _, task = await place.in_flight(gateway)
            async with place.network.silent(place.address):
                call = await task
        recovered_s = await place.first_answer_s(gateway)
        return {
            "call": call.told(),
            "recovered_s": recovered_s,
            "active_gone_s": await place.active_gone_s(),
            "backends_gone_s": await place.leaked_gone_s(gateway),
        }


async def noticed_in_flight(place: Place) -> dict[str, Any]:
    """Let the link fall silent under a statement until the kernel has noticed, with time left for another try."""
    async with place.gateway(call_s=40.0) as gateway:
        await place.first_answer_s(gateway)
        async with place.holding():
            made, task = await place.in_flight(gateway)
            await place.network.silence(place.address)
            started = time.monotonic()
        return await _noticed(place, gateway, made, task, started)


async def noticed_on_sending(place: Place) -> dict[str, Any]:
    """Send a statement into a link that has been silent since the last one."""
    async with place.gateway(call_s=40.0) as gateway:
        await place.first_answer_s(gateway)
        await place.settled(gateway)
        await place.network.silence(place.address)
        started = time.monotonic()
        made, task = place.start(gateway)
        return await _noticed(place, gateway, made, task, started)


async def _noticed(
    place: Place, gateway: Gateway, made: Call, task: asyncio.Task[Call], started: float
) -> dict[str, Any]:
    is_noticed = await until(lambda: made.retries > 0 or task.done(), within_s=30.0)
    noticed_s = time.monotonic() - started
    await place.network.speak(place.address)
    lifted = time.monotonic()
    call = await task
    return {
        "call": call.told(),
        "noticed_s": noticed_s if is_noticed else None,
        "answered_after_s": time.monotonic() - lifted,
        "backends_gone_s": await place.leaked_gone_s(gateway),
    }


async def idle_for_long(place: Place) -> dict[str, Any]:
    """Leave idle connections in a silence that the kernel notices, and in one that it does not."""
    async with place.gateway(call_s=10.0) as gateway:

        def size() -> int:
            return gateway.pool_stats()[place.name].size

        before = await place.calls(gateway, POOL_MAX)
        opened = size()
        await place.settled(gateway)
        async with place.network.silent(place.address):
            started = time.monotonic()
            is_noticed = await until(lambda: size() == 0, within_s=30.0)
            noticed_s = time.monotonic() - started
        return {
            "before": before,
            "opened": opened,
            "noticed_s": noticed_s if is_noticed else None,
            "after": await place.calls(gateway, POOL_MAX),
            "backends_gone_s": await place.leaked_gone_s(gateway),
        }


async def idle_for_a_moment(place: Place) -> dict[str, Any]:
    """Leave idle connections in a silence that is over before anybody notices."""
    async with place.gateway(call_s=10.0) as gateway:
        before = await place.calls(gateway, POOL_MAX)
        await place.settled(gateway)
        async with place.network.silent(place.address):
            await asyncio.sleep(3.0)  # how long the silence lasts: nothing is waited for
        return {"before": before, "after": await place.calls(gateway, POOL_MAX)}


async def dialled_too_long(place: Place) -> dict[str, Any]:
    """Dial into a silence that outlives the call; then see how soon a call is answered."""
    async with place.gateway(call_s=5.0) as gateway:
        async with place.network.silent(place.address):
            call = await place.start(gateway)[1]
        return {
            "call": call.told(),
            "recovered_s": await place.first_answer_s(gateway),
            "backends_gone_s": await place.leaked_gone_s(gateway),
        }


async def tried_now_and_then(place: Place) -> dict[str, Any]:
    """Have the breaker try for a while, and end the silence in the middle of one of its tries."""
    async with place.gateway(call_s=2.5) as gateway:
        async with place.network.silent(place.address):
            await place.start(gateway)[1]

            async def is_trying() -> bool:
                made, task = place.start(gateway)
                # The first packet and the one after a second are lost, and nothing comes until the try is given up.
                return await until(lambda: task.done() or _waited_s(made) > 1.2) and not task.done()

            assert await until(is_trying)
        return {"recovered_s": await place.first_answer_s(gateway)}


def _waited_s(made: Call) -> float:
    return 0.0 if made.waiting is None else 2.5 - made.waiting.left_s()


async def dialled_for_a_while(place: Place) -> dict[str, Any]:
    """Dial into a silence that ends in mid-dial."""
    async with place.gateway(call_s=30.0) as gateway:
        async with place.network.silent(place.address):
            made, task = place.start(gateway)
            # Between the third and the fourth packet of a dial whose waits double: 3 s and 7 s.
            await until(lambda: made.waiting is not None and made.waiting.left_s() < 30.0 - 3.5)
        lifted = time.monotonic()
        call = await task
        return {"call": call.told(), "answered_after_s": time.monotonic() - lifted}


async def looked_up(place: Place) -> dict[str, Any]:
    """Have six calls wait for a name server that never answers, while another profile is read."""
    names = place.profile(call_s=3.0, host="database.silent.test")
    other = Profile(
        **{
            **{key: getattr(names, key) for key in Profile.__slots__},
            "name": "other",
            "endpoints": (Endpoint(host=place.address, port=place.server.port),),
        }
    )
    with tempfile.TemporaryDirectory() as folder, place.network.silent_name_server(Path(folder)):
        async with Gateway(config_of(names, other), environ={}) as gateway:
            await EXECUTE.run(gateway, EXECUTE.check({"query": "SELECT 1", "profile": "other"}))
            started = time.monotonic()
            hanging = [place.start(gateway)[1] for _ in range(6)]
            longest_s = 0.0
            answers = 0
            while not all(task.done() for task in hanging):
                before = time.monotonic()
                await EXECUTE.run(gateway, EXECUTE.check({"query": "SELECT 1", "profile": "other"}))
                answers += 1
                longest_s = max(longest_s, time.monotonic() - before)
                await asyncio.sleep(0.02)
            return {
                "calls": [(await task).told() for task in hanging],
                "seconds": time.monotonic() - started,
                "answers": answers,
                "longest_s": longest_s,
            }


SCENARIOS: tuple[Scenario, ...] = (
    given_up_in_flight,
    noticed_in_flight,
    noticed_on_sending,
    idle_for_long,
    idle_for_a_moment,
    dialled_too_long,
    tried_now_and_then,
    dialled_for_a_while,
    looked_up,
)


async def _run(scenario: Scenario, address: str, network: Network, server: EmbeddedServer) -> dict[str, Any]:
    name = scenario.__name__
    admin = await asyncpg.connect(server.dsn(), ssl=False, timeout=10)
    try:
        await admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'; CREATE TABLE {name} ()")
        await admin.execute(f"GRANT SELECT ON {name} TO {name}")
        return await scenario(Place(name, address, network, server, admin))
    finally:
        await admin.close(timeout=5)


async def main() -> dict[str, Any]:
    """Run all scenarios side by side and return what they have met, by name."""
    network = Network.up()
    hba = ("host all all 127.0.0.0/8 scram-sha-256",)
    async with EmbeddedServer.create(
        binaries=chosen_binaries(), settings={"listen_addresses": "*"}, hba=hba, inside=quick_folder()
    ) as server:
        met = await asyncio.gather(
            *(
                _run(scenario, f"127.0.1.{number}", network, server)
                for number, scenario in enumerate(SCENARIOS, start=1)
            )
        )
    return {scenario.__name__: found for scenario, found in zip(SCENARIOS, met, strict=True)}


if __name__ == "__main__":
    sys.stdout.buffer.write(orjson.dumps(asyncio.run(main())))
