"""Which password a profile logs in with, looked up anew at each dial so that a rotated one is used.

It knows `env:NAME`, `file:PATH` and literals. No password means none: what libpq would look up by
itself (PGPASSWORD, ~/.pgpass) belongs to no profile.
"""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from gateway.config_keys import written
from gateway.errors import ConfigError
from gateway.profiles import Profile

# PostgreSQL itself takes no longer one.
LONGEST_SECRET = 64 * 1024


async def resolve_password(
    profile: Profile, environ: Mapping[str, str], *, run: Callable[..., Awaitable[Any]] = asyncio.to_thread
) -> str | None:
    """Return the profile's password, or None where it has none (peer and trust logins).

    run: runs what blocks in a thread, so that a folder on a dead network holds up this dial only.
    Raises ConfigError with the key, the variable or file, and what to do.
    """
    unsupported = profile.unsupported()
    if unsupported is not None and (profile.azure.use_ad or (profile.password or "").startswith("keyvault:")):
        raise _fault(profile, "", unsupported, hint="use env:NAME or file:PATH for now")
    if profile.password is None:
        return None
    scheme, colon, rest = profile.password.partition(":")
    match f"{scheme}{colon}":
        case "env:":
            return _checked(_from_variable(profile, rest, environ), profile=profile)
        case "file:":
            return _checked(await run(_from_file, profile, Path(rest)), profile=profile)
        case "literal:":
            return _checked(rest, profile=profile)
        case _:
            return _checked(profile.password, profile=profile)


def _from_variable(profile: Profile, name: str, environ: Mapping[str, str]) -> str:
    value = written(environ, name)
    if value is None:
        what = "holds the text of a variable that was not expanded" if environ.get(name, "").strip() else "is not set"
        raise _fault(
            profile,
            f"env:{name}",
            f"the variable {name} {what}",
            hint=f"set {name} in the environment that starts the gateway (an MCP client: the `env` of its entry)",
        )
    return value


def _from_file(profile: Profile, path: Path) -> str:
    key = f"file:{path}"
    try:
        # A pipe or device would block for ever, and a whole disk is no password.
        if not stat.S_ISREG(path.stat().st_mode):
            raise _fault(profile, key, "is not a plain file", hint="name a file that holds the password alone")
        with path.open("rb") as file:
            content = file.read(LONGEST_SECRET + 1)
    except OSError as error:
        hint = "write the password into that file, readable by the user that runs the gateway"
        raise _fault(profile, key, f"the file cannot be read: {error.strerror}", hint=hint) from None
    try:
        password = content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise _fault(profile, key, "the file is not UTF-8 text", hint="write the password alone into it") from None
    if not password or len(content) > LONGEST_SECRET:
        what = "is too long for a password" if password else "is empty"
        raise _fault(profile, key, f"the file {what}", hint="write the password alone into it")
    return password


def _checked(password: str, *, profile: Profile) -> str:
    if "\0" in password:  # it would end the message to the server early
        raise _fault(profile, "", "has a zero byte in it", hint="write the password alone")
    return password


def _fault(profile: Profile, shown: str, problem: str, *, hint: str) -> ConfigError:
    place = f"[profiles.{profile.name}] password"
    error = ConfigError([f"{place} = {shown}: {problem}" if shown else f"{place}: {problem}"], hint=hint)
    error.profile = profile.name
    return error
