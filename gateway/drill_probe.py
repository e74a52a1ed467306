"""The independent witness of a drill, who knows whether a client that is not the gateway reaches the database.

It is asyncpg as it comes, with one new connection each time, through the same proxy as the gateway's. It shares with
the gateway only how a profile's password is found and how its server has to prove itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, cast

import asyncpg
from asyncpg.exceptions import InternalClientError

from gateway.credentials import resolve_password
from gateway.drill_records import ProbeTry, Recording
from gateway.profiles import Endpoint, Profile
from gateway.tls import TlsPlan, tls_plan

APPLICATION_NAME: Final = "pg-mcp-gateway drill"
_EVERY_S: Final = 0.15
_PATIENCE_S: Final = 1.5
# While one waits for a silent link, the next ones look whether it has come back: so many at once.
_AT_ONCE: Final = 4
# The driver's internal error is one of these: what it says of a connection that is just going.
_UNREACHED: Final = (OSError, EOFError, asyncpg.PostgresError, asyncpg.InterfaceError, InternalClientError)


class _Detour:
    """The running loop, except that every connection leads to one address: TLS still asks for the profile's host."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._loop = asyncio.get_running_loop()
        self._address = address

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    async def create_connection(self, factory: Callable[[], asyncio.Protocol], _host: str, _port: int) -> Any:
        return await self._loop.create_connection(factory, *self._address)


class Probe:
    """Asks a profile's database again and again, past the gateway."""

    def __init__(self, profile: Profile, *, environ: Mapping[str, str]) -> None:
        """Make a probe of a profile whose endpoints have a `via`."""
        self._profile = profile
        self._environ = environ
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def run(self, recording: Recording, stop: asyncio.Event) -> None:
        """Write each try into the recording until `stop` is set."""
        plan = await asyncio.to_thread(tls_plan, self._profile.tls)
        async with asyncio.TaskGroup() as tries:
            while not stop.is_set():
                await self._places.acquire()
                tries.create_task(self._try(recording, plan))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_EVERY_S):
                        await stop.wait()

    async def _try(self, recording: Recording, plan: TlsPlan) -> None:
        began_s = recording.now()
        try:
            answered = await self._is_answered(plan)
        finally:
            self._places.release()
        recording.probes.append(ProbeTry(began_s=began_s, ended_s=recording.now(), answered=answered))

    async def _is_answered(self, plan: TlsPlan) -> bool:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                password = await resolve_password(self._profile, self._environ)
                for endpoint in self._profile.endpoints:
                    if await self._asks(endpoint, password or "", plan):
                        return True
        except TimeoutError:
            pass
        return False

    async def _asks(self, endpoint: Endpoint, password: str, plan: TlsPlan) -> bool:
        try:
            connection = await self._connect(endpoint, password, plan)
        except _UNREACHED:
            return False
        try:
            return bool(await connection.fetchval("SELECT 1") == 1)
        except _UNREACHED:
            return False
        finally:
            connection.terminate()

    async def _connect(self, endpoint: Endpoint, password: str, plan: TlsPlan) -> asyncpg.Connection[Any]:
        if plan.context is None:
            return await self._dial(endpoint, password, tls=False)
        try:
            return await self._dial(endpoint, password, tls=plan.context)
        except (OSError, asyncpg.PostgresError) as error:
            if not plan.goes_on_without(error):
                raise
        return await self._dial(endpoint, password, tls=False)

    async def _dial(
        self, endpoint: Endpoint, password: str, *, tls: ssl.SSLContext | Literal[False]
    ) -> asyncpg.Connection[Any]:
        if endpoint.via is None:
            raise ValueError("the probe goes through the proxy, or it would not see what the gateway sees")
        return await asyncpg.connect(
            host=endpoint.host,
            port=endpoint.port,
            user=self._profile.user,
            password=password,
            passfile="",
            database=self._profile.database,
            ssl=tls,
            timeout=_PATIENCE_S,
            command_timeout=_PATIENCE_S,
            statement_cache_size=0,
            server_settings={"application_name": APPLICATION_NAME},
            loop=cast("asyncio.AbstractEventLoop", _Detour(endpoint.via)),
        )
