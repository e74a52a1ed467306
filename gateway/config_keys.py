"""Every key of a profile and every variable of the environment: name, default, meaning and parser.

These two tables are the only place where a key or variable is known; `config.py` reads by them and
docs/configuration.md is held to them by a test. Parsers judge one value alone and raise UnfitValueError
(or the ValueError of dsn.py); how values fit together is judged in `config.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from gateway.dsn import DsnError, check_host, parse_dsn, parse_endpoint

Parser = Callable[[object], Any]

UNEXPANDED = re.compile(r"\$\{[^{}]*\}\Z")
TRUE_WORDS = ("true", "1", "yes", "on")
FALSE_WORDS = ("false", "0", "no", "off")
REFERENCES = ("env:", "file:", "keyvault:", "literal:")
LONGEST_NAME = 63
LONGEST_DESCRIPTION = 1000
LONGEST_S = 3600.0

_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_SECRET_NAME = re.compile(r"[0-9A-Za-z-]{1,127}\Z")
_VAULT_URL = re.compile(r"https://[A-Za-z0-9.-]+(:[0-9]{1,5})?/?\Z")


class UnfitValueError(ValueError):
    """What is wrong with one value, as the end of a sentence, and never the value itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key of `[profiles.NAME]`; `group.key` stands in the inline table `group`.

    kind and default are what the documentation shows; a secret's value is never shown in a fault.
    """

    name: str
    kind: str
    default: Any
    meaning: str
    parse: Parser
    is_secret: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """One variable of the environment; `key` is what it overrides, empty where it is none of a profile's."""

    name: str
    key: str
    meaning: str
    parse: Parser
    is_secret: bool = False


def written(environ: Mapping[str, str], name: str) -> str | None:
    """Return the variable's value, or None where it is missing, blank or an unexpanded `${NAME}`.

    Programs that start a server hand on `${NAME}` as it stands when NAME is not set.
    """
    value = environ.get(name, "")
    return None if not value.strip() or UNEXPANDED.match(value.strip()) else value


def text(value: object) -> str:
    """Return a string that is not empty, has no control characters and is no `${VARIABLE}`."""
    if not isinstance(value, str):
        raise UnfitValueError(f"must be a string, not {kind_of(value)}")
    if not value.strip():
        raise UnfitValueError("must not be empty")
    if UNEXPANDED.match(value.strip()):
        raise UnfitValueError("variables are not expanded here: write the value itself")
    if any((ord(sign) < ord(" ") and sign not in "\n\t") or "\ud800" <= sign <= "\udfff" for sign in value):
        raise UnfitValueError("has control characters in it")
    return value


def password(value: object) -> str:
    """Return `env:NAME`, `file:PATH`, `keyvault:NAME` or the literal, without reading any of them."""
    if isinstance(value, str) and (match := UNEXPANDED.match(value.strip())):
        name = match.group()[2:-1]
        name = name if _VARIABLE_NAME.match(name) else "NAME"
        raise UnfitValueError(f'variables are not expanded here: write "env:{name}"')
    found = text(value)
    scheme, _, rest = found.partition(":")
    if scheme == "env" and not _VARIABLE_NAME.match(rest):
        raise UnfitValueError("env: must be followed by the name of a variable")
    if scheme == "file" and not rest.strip():
        raise UnfitValueError("file: must be followed by the path of a file")
    if scheme == "keyvault":
        _secret_name(rest)
    return found


def kind_of(value: object) -> str:
    """Return the TOML word for the value's type."""
    names = {bool: "a boolean", int: "an integer", float: "a float", str: "a string", list: "an array", dict: "a table"}
    return names.get(type(value), "a date or time")


def nearest(word: str, known: tuple[str, ...]) -> str:
    """Return `did you mean x?` for the nearest known word, else the list of all."""
    near = get_close_matches(word, known, n=1)
    return f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"


def flag(value: object) -> bool:
    """Return a boolean."""
    if not isinstance(value, bool):
        raise UnfitValueError(f"must be true or false, not {kind_of(value)}")
    return value


def whole(low: int, high: int) -> Parser:
    """Return the parser of a whole number between two bounds, both included."""

    def parse(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise UnfitValueError(f"must be a whole number from {low} to {high}, not {kind_of(value)}")
        if value < low:
            raise UnfitValueError(f"must be at least {low}")
        if value > high:
            raise UnfitValueError(f"must be at most {high}")
        return value

    return parse


def seconds(high: float = LONGEST_S, *, zero: bool = False) -> Parser:
    """Return the parser of a time in seconds up to `high`, above zero unless `zero` is allowed."""

    def parse(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UnfitValueError(f"must be a number of seconds, not {kind_of(value)}")
        if not (0 <= value <= high) or (value == 0 and not zero) or not math.isfinite(value):
            raise UnfitValueError(f"must be {'at least' if zero else 'above'} 0 and at most {high:g} seconds")
        return float(value)

    return parse


def choice(*words: str) -> Parser:
    """Return the parser of one of some words."""

    def parse(value: object) -> str:
        found = text(value)
        if found not in words:
            near = get_close_matches(found.strip().lower().replace("_", "-"), words, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UnfitValueError(f"must be one of {', '.join(words)}{hint}")
        return found

    return parse


def names(value: object) -> tuple[str, ...]:
    """Return a list of names of the database, each at most 63 bytes and none twice."""
    return _each(value, _name)


def _name(value: object) -> str:
    found = text(value)
    if len(found.encode()) > LONGEST_NAME:
        raise UnfitValueError(f"is longer than the {LONGEST_NAME} bytes of a name in PostgreSQL")
    return found


def _functions(value: object) -> tuple[str, ...]:
    def function(item: object) -> str:
        found = text(item)
        if not re.fullmatch(r'[^\s".()]+(\.[^\s".()]+)?', found):
            raise UnfitValueError("must be the plain name of a function, or schema.function")
        return found

    return _each(value, function)


def _servers(value: object) -> tuple[tuple[str, int | None], ...]:
    found: tuple[tuple[str, int | None], ...] = _each(value, lambda item: parse_endpoint(text(item)))
    if not found:
        raise UnfitValueError("must name at least one server")
    return found


def _each(value: object, parse: Parser) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise UnfitValueError(f"must be an array of strings, not {kind_of(value)}")
    found: list[Any] = []
    for number, item in enumerate(value, start=1):
        try:
            one = parse(item)
        except ValueError as error:
            raise UnfitValueError(f"entry {number} {error}") from None
        if one in found:
            raise UnfitValueError(f"entry {number} stands there twice")
        found.append(one)
    return tuple(found)


def _host(value: object) -> str:
    found = text(value)
    check_host(found)
    if found.count(":") == 1 or found.startswith("["):
        raise UnfitValueError("must be the host alone: the port has a key of its own")
    return found


def _description(value: object) -> str:
    found = text(value)
    if len(found) > LONGEST_DESCRIPTION:
        raise UnfitValueError(f"must have at most {LONGEST_DESCRIPTION} characters")
    return found


def _url(value: object) -> Any:
    try:
        return parse_dsn(text(value))
    except DsnError as error:
        raise UnfitValueError("; ".join(error.faults)) from None


def _vault_url(value: object) -> str:
    found = text(value)
    if not _VAULT_URL.match(found):
        raise UnfitValueError("must be the address of a vault, as https://NAME.vault.azure.net/")
    return found


def _secret_name(value: object) -> str:
    name, slash, version = text(value).partition("/")
    if not _SECRET_NAME.match(name) or (slash and not re.fullmatch(r"[0-9a-f]{32}", version)):
        raise UnfitValueError("a secret's name in Key Vault has letters, digits and - only (NAME or NAME/VERSION)")
    return f"{name}{slash}{version}"


def _number_word(value: object) -> int:
    found = text(value).strip()
    if not re.fullmatch(r"[0-9]{1,5}", found) or not 1 <= int(found) <= 65535:  # noqa: PLR2004 - the highest port
        raise UnfitValueError("must be a whole number from 1 to 65535")
    return int(found)


def _flag_word(value: object) -> bool:
    found = text(value).strip().lower()
    if found not in TRUE_WORDS + FALSE_WORDS:
        raise UnfitValueError("must be true or false")
    return found in TRUE_WORDS


def _azure_host(value: object) -> str:
    found = _host(value)
    return found if "." in found or found == "localhost" else f"{found}.postgres.database.azure.com"


SSL_MODE = choice("disable", "prefer", "require", "verify-ca", "verify-full")

KEYS: tuple[Key, ...] = (
    Key(name="host", kind="string", default="localhost", parse=_host,
        meaning="The server's name or address, or the folder of its Unix socket."),
    Key(name="port", kind="integer, 1 to 65535", default=5432, parse=whole(1, 65535),
        meaning="The server's port."),
    Key(name="hosts", kind="array of strings", default=None, parse=_servers,
        meaning="Several servers `host:port` instead of `host` and `port`, tried in this order."),
    Key(name="target", kind="any, primary, standby, prefer-standby", default="any",
        parse=choice("any", "primary", "standby", "prefer-standby"),
        meaning="Which of the hosts may answer, by its role at this moment."),
    Key(name="database", kind="string", default=None, parse=_name,
        meaning="The database; left out, the one named like the user."),
    Key(name="user", kind="string", default=None, parse=text,
        meaning="The role to log in as; there is no default."),
    Key(name="password", kind="string", default=None, parse=password, is_secret=True,
        meaning="Where the password is, `env:NAME`, `file:PATH` or `keyvault:NAME`, or the password itself."),
    Key(name="url", kind="string", default=None, parse=_url, is_secret=True,
        meaning="A `postgresql://` address instead of `host`, `hosts`, `port`, `database` and `user`."),
    Key(name="ssl_mode", kind="disable, prefer, require, verify-ca, verify-full", default="prefer", parse=SSL_MODE,
        meaning="How the connection is encrypted; an Azure profile that does not say has `verify-full`."),
    Key(name="ssl_root_cert", kind="string", default=None, parse=text,
        meaning="A PEM file with the root certificates to trust; left out or `system`, the system's store."),
    Key(name="pool_size.min", kind="integer, 0 to 500", default=1, parse=whole(0, 500),
        meaning="Connections kept warm after the first call."),
    Key(name="pool_size.max", kind="integer, 1 to 500", default=10, parse=whole(1, 500),
        meaning="Connections at most, and so calls at once."),
    Key(name="limits.rows", kind="integer, 1 to 100000", default=1000, parse=whole(1, 100_000),
        meaning="Rows that one call may ask for."),
    Key(name="limits.cell_kb", kind="integer, 1 to 1024", default=8, parse=whole(1, 1024),
        meaning="Kilobytes (1024 bytes) of one value; longer ones are cut with a mark."),
    Key(name="limits.page_kb", kind="integer, 1 to 16384", default=64, parse=whole(1, 16_384),
        meaning="Kilobytes (1024 bytes) of one answer; rows past it are left out with a mark."),
    Key(name="limits.statement_s", kind="seconds, above 0 to 3600", default=20.0, parse=seconds(),
        meaning="Seconds that one statement may run in the database; at most `limits.call_s`."),
    Key(name="limits.call_s", kind="seconds, above 0 to 3600", default=30.0, parse=seconds(),
        meaning="Seconds that one call may take, with connecting and retries."),
    Key(name="limits.acquire_s", kind="seconds, above 0 to 3600", default=5.0, parse=seconds(),
        meaning="Seconds to wait for a free connection; at most `limits.call_s`."),
    Key(name="retry.attempts", kind="integer, 1 to 100", default=None, parse=whole(1, 100),
        meaning="Attempts at most; left out, until the call's time is up."),
    Key(name="retry.first_wait_s", kind="seconds, above 0 to 60", default=0.2, parse=seconds(60.0),
        meaning="Seconds before the second attempt, then twice as long each time; for Azure call_s / 6, 5 at most."),
    Key(name="retry.max_wait_s", kind="seconds, above 0 to 60", default=2.0, parse=seconds(60.0),
        meaning="Seconds that a wait between attempts grows to; for Azure call_s / 3, 60 at most."),
    Key(name="schemas", kind="array of strings", default=(), parse=names,
        meaning="The only schemas that callers may read; empty means all that the role may."),
    Key(name="search_path", kind="array of strings", default=(), parse=names,
        meaning="Schemas searched for names without one; empty means the role's own setting."),
    Key(name="allow_functions", kind="array of strings", default=(), parse=_functions,
        meaning="Functions that statements may call although the guard does not know them as harmless."),
    Key(name="posture", kind="warn, enforce", default="warn", parse=choice("warn", "enforce"),
        meaning="What a role that could write means: a warning, or no service for this profile."),
    Key(name="description", kind="string", default=None, parse=_description,
        meaning="What the database is, in a sentence for the agent."),
    Key(name="production", kind="boolean", default=False, parse=flag,
        meaning="Marks the profile as production wherever people see it."),
    Key(name="pooler", kind="none, pgbouncer", default="none", parse=choice("none", "pgbouncer"),
        meaning="What stands before the server: `pgbouncer` is PgBouncer in transaction mode, Azure's 6432 too."),
    Key(name="cache_s", kind="seconds, 0 to 3600", default=0.0, parse=seconds(zero=True),
        meaning="Seconds that answers from the catalogue may be old; only 0 works in this version."),
    Key(name="azure_server_type", kind="flexible, single", default=None, parse=choice("flexible", "single"),
        meaning="Makes the profile an Azure one; with `single` the user becomes `user@server`."),
    Key(name="use_azure_ad", kind="boolean", default=False, parse=flag,
        meaning="Log in with an Entra token instead of a password; not in this version."),
    Key(name="azure_credential", kind="default, managed_identity, service_principal, workload_identity, cli",
        default="default",
        parse=choice("default", "managed_identity", "service_principal", "workload_identity", "cli"),
        meaning="Who asks for tokens and secrets at Azure; not in this version."),
    Key(name="key_vault_url", kind="string", default=None, parse=_vault_url,
        meaning="The vault of `keyvault:` passwords, `https://NAME.vault.azure.net/`; not in this version."),
)  # fmt: skip

VARIABLES: tuple[Variable, ...] = (
    Variable(name="DB_PROFILE", key="", parse=text,
             meaning="The profile to use, instead of `default`; the process stays with it."),
    Variable(name="DATABASE_URL", key="url", parse=_url, is_secret=True,
             meaning="A `postgresql://` address: server, database, user and password all come from it."),
    Variable(name="PGHOST", key="host", parse=_host, meaning="`host`; it replaces `hosts`, too."),
    Variable(name="PGPORT", key="port", parse=_number_word, meaning="`port`, of every server of the profile."),
    Variable(name="PGDATABASE", key="database", parse=_name, meaning="`database`."),
    Variable(name="PGUSER", key="user", parse=text, meaning="`user`."),
    Variable(name="PGPASSWORD", key="password", parse=lambda _: "env:PGPASSWORD", is_secret=True,
             meaning="The password itself; it replaces `use_azure_ad`, too."),
    Variable(name="SSL_MODE", key="ssl_mode", parse=SSL_MODE, meaning="`ssl_mode`."),
    Variable(name="SSL_CERT_PATH", key="ssl_root_cert", parse=text, meaning="`ssl_root_cert`."),
    Variable(name="USE_AZURE_AD", key="use_azure_ad", parse=_flag_word,
             meaning="`use_azure_ad`: true or false; true replaces the file's `password`."),
    Variable(name="USE_MANAGED_IDENTITY", key="azure_credential",
             parse=lambda value: "managed_identity" if _flag_word(value) else "default",
             meaning="`azure_credential`: true is `managed_identity`, false is `default`."),
    Variable(name="AZURE_CLIENT_ID", key="azure_client_id", parse=text,
             meaning="The application, or the managed identity where there are several."),
    Variable(name="AZURE_CLIENT_SECRET", key="azure_client_secret", parse=text, is_secret=True,
             meaning="The secret of a service principal."),
    Variable(name="AZURE_TENANT_ID", key="azure_tenant_id", parse=text,
             meaning="The Entra tenant."),
    Variable(name="AZURE_KEY_VAULT_URL", key="key_vault_url", parse=_vault_url, meaning="`key_vault_url`."),
    Variable(name="DB_PASSWORD_SECRET_NAME", key="password",
             parse=lambda value: f"keyvault:{_secret_name(value)}",
             meaning="`password`, as the name of a secret in the vault."),
    Variable(name="AZURE_SERVER_NAME", key="host", parse=_azure_host,
             meaning="`host`; a name without a dot gets `.postgres.database.azure.com`."),
    Variable(name="AZURE_DATABASE_NAME", key="database", parse=_name, meaning="`database`."),
    Variable(name="PG_GATEWAY_CONFIG", key="", parse=text,
             meaning="The configuration file, where `--config` does not name one."),
    Variable(name="PG_GATEWAY_TOKEN", key="", parse=text, is_secret=True,
             meaning="The bearer token that HTTP clients must send."),
    Variable(name="PG_GATEWAY_STATE_DIR", key="", parse=text,
             meaning="The folder for what the gateway remembers between runs."),
)  # fmt: skip

KEY_BY_NAME = {key.name: key for key in KEYS}
