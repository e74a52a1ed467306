"""A connection URL taken apart, strictly: `postgresql://user:password@host:port/database?sslmode=require`.

Drivers guess where a URL is ambiguous (an `@` in a password quietly changes the host); here every
doubt is a fault, all of one URL together, and no fault repeats what could be a secret.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from difflib import get_close_matches
from urllib.parse import unquote_to_bytes

SCHEMES = ("postgresql", "postgres")
QUERY_KEYS = ("sslmode", "sslrootcert", "application_name", "connect_timeout")
ESCAPES = "write %40 for @, %3A for :, %2F for /, %3F for ?, %23 for #, %25 for %"
HIGHEST_PORT = 65535

_AUTHORITY_END = re.compile(r"[/?#]")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SECRET_QUERY = re.compile(r"(?i)([?&][^=&#]*pass[^=&#]*=)[^&#]*")


class DsnError(ValueError):
    """The URL has faults; `faults` holds one sentence for each, none with a secret in it."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = tuple(faults)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dsn:
    """What a URL says; None and empty where it says nothing."""

    hosts: tuple[tuple[str, int | None], ...] = ()
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    database: str | None = None
    options: tuple[tuple[str, str], ...] = ()


def parse_dsn(text: str) -> Dsn:
    """Return the parts of a `postgresql://` URL, percent-decoded; raise DsnError with all its faults."""
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in SCHEMES:
        raise DsnError(["must begin with postgresql:// or postgres://"])
    end = _AUTHORITY_END.search(rest)
    authority, tail = (rest, "") if end is None else (rest[: end.start()], rest[end.start() :])
    faults: list[str] = []
    if authority.count("@") > 1:
        faults.append(f"has more than one @ before the host: in a user or password, {ESCAPES}")
    elif "@" in tail.partition("?")[0] or ("@" in tail and "@" not in authority):
        faults.append(f"has an @ after the host: in a user or password, {ESCAPES}")
    if "#" in tail:
        faults.append(f"has a # in it: {ESCAPES}")
    if faults:  # where the parts begin and end is not known: whatever else were said could be wrong
        raise DsnError(faults)
    login, _, places = authority.rpartition("@")
    user, has_password, password = login.partition(":")
    path, _, query = tail.partition("?")
    hosts = _hosts(places, faults=faults)
    if faults and "@" not in authority:  # perhaps a login that lost its end: name nothing of the rest
        raise DsnError(faults)
    dsn = Dsn(
        hosts=hosts,
        user=_decoded(user, "user", faults=faults) or None,
        password=_decoded(password, "password", faults=faults) if has_password else None,
        database=_decoded(path.removeprefix("/"), "database", faults=faults) or None,
        options=_options(query, faults=faults),
    )
    if faults:
        raise DsnError(faults)
    return dsn


def shown_dsn(text: str) -> str:
    """Return the URL as a person may see it: whatever could be a secret is blanked."""
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in SCHEMES:
        return "***"
    login, at, tail = rest.rpartition("@")
    user, colon, secret = login.partition(":")
    if not at:
        # No login, or one that lost its end: what stands where the port should may be a password.
        tail = re.sub(r":(?!\d{1,5}(?:[/?,]|\Z)).*", ":***", tail) if "[" not in rest else "***"
    tail = _SECRET_QUERY.sub(r"\1***", tail)
    return f"{scheme}://{user}{colon}{'***' if secret else ''}{at}{tail}"


def parse_endpoint(text: str) -> tuple[str, int | None]:
    """Return host and port of `host`, `host:5432`, `[::1]:5432` or `/socket/folder`; raise ValueError."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError("an IPv6 address is written [address]:port")
        port = rest.removeprefix(":")
        has_port = bool(rest)
    elif text.count(":") > 1 and not text.startswith("/"):
        raise ValueError("an IPv6 address is written [address]:port")
    else:
        host, colon, port = text.partition(":")
        has_port = bool(colon)
    check_host(host)
    return host, parse_port(port) if has_port else None


def check_host(host: str) -> None:
    """Raise ValueError where the text cannot be the name or address of one server."""
    if not host:
        raise ValueError("names no host")
    if "," in host:
        raise ValueError('names one server; several are hosts = ["a:5432", "b:5432"]')
    if any(sign.isspace() or not sign.isprintable() for sign in host) or "@" in host:
        raise ValueError("is not the name of a host")
    if "/" in host and not host.startswith("/"):
        raise ValueError("is not the name of a host (a folder of a Unix socket begins with /)")


def parse_port(text: str) -> int:
    """Return the port that the digits name; raise ValueError, without the text, which may be a secret."""
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= HIGHEST_PORT:
        raise ValueError(f"a port must be a whole number from 1 to {HIGHEST_PORT}")
    return int(text)


def _hosts(places: str, *, faults: list[str]) -> tuple[tuple[str, int | None], ...]:
    found = []
    for place in places.split(",") if places else ():
        before = len(faults)
        decoded = _decoded(place, "host", faults=faults)
        if len(faults) > before:
            continue
        try:
            found.append(parse_endpoint(f"localhost{decoded}" if decoded.startswith(":") else decoded))
        except ValueError as error:
            faults.append(f"its host: {error}")
    return tuple(found)


def _options(query: str, *, faults: list[str]) -> tuple[tuple[str, str], ...]:
    found: dict[str, str] = {}
    for part in query.split("&") if query else ():
        raw_key, equals, raw_value = part.partition("=")
        key = _decoded(raw_key, "query", faults=faults)
        value = _decoded(raw_value, "query", faults=faults)
        if key not in QUERY_KEYS:
            near = get_close_matches(key, QUERY_KEYS, n=1)
            known = f"did you mean {near[0]}?" if near else f"known are {', '.join(QUERY_KEYS)}"
            name = f"'{key}'" if re.fullmatch(r"[a-z_]{1,40}", key) else "a key that is not known"
            faults.append(f"the query says {name}, which has no meaning here: {known}")
        elif not equals or not value:
            faults.append(f"the query says {key} without a value")
        elif key in found:
            faults.append(f"the query says {key} twice")
        else:
            found[key] = value
    return tuple(found.items())


def _decoded(text: str, part: str, *, faults: list[str]) -> str:
    if _BAD_ESCAPE.search(text):
        faults.append(f"the {part} has a % that begins no escape: write %25 for %")
        return ""
    try:
        decoded = unquote_to_bytes(text).decode()
    except UnicodeError:
        faults.append(f"the {part} is not UTF-8 once its escapes are read")
        return ""
    if "\0" in decoded:
        faults.append(f"the {part} has a zero byte in it")
        return ""
    return decoded
