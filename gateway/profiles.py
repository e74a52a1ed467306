"""What a database profile is: frozen value objects, without any connection.

The names are the keys of `profiles.toml`; units are in the names. Values are checked where they are
read (`config.py`), so that all faults of a file can be reported together with their place.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

PROFILE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}\Z")

SslMode = Literal["disable", "prefer", "require", "verify-ca", "verify-full"]
Target = Literal["any", "primary", "standby", "prefer-standby"]
Pooler = Literal["none", "pgbouncer"]
Posture = Literal["warn", "enforce"]
AzureServerType = Literal["flexible", "single"]
AzureCredential = Literal["default", "managed_identity", "service_principal", "workload_identity", "cli"]

SSL_MODES: tuple[SslMode, ...] = ("disable", "prefer", "require", "verify-ca", "verify-full")


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """How many connections a profile may hold: `max` at most, `min` kept warm after the first call."""

    min: int = 1
    max: int = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The most that one call may take; callers tighten these, never loosen them.

    rows: rows of a page. cell_kb, page_kb: kB (1024 bytes) of text of one value and of one answer.
    statement_s: one statement in the database. call_s: the whole call. acquire_s: the wait for a
    free connection, part of call_s.
    """

    rows: int = 1000
    cell_kb: int = 8
    page_kb: int = 64
    statement_s: float = 20.0
    call_s: float = 30.0
    acquire_s: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrySettings:
    """How often and how patiently a read is tried again inside its call.

    attempts: dials at most; None means until the call's time is up. first_wait_s, max_wait_s: the
    first wait and the longest one, between which the waits double.
    """

    attempts: int | None = None
    first_wait_s: float = 0.2
    max_wait_s: float = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureSettings:
    """What only an Azure server needs; `server_type` or `use_ad` make a profile an Azure one."""

    server_type: AzureServerType | None = None
    use_ad: bool = False
    credential: AzureCredential = "default"
    key_vault_url: str | None = None
    tenant_id: str | None = None
    client_id: str | None = None
    client_secret: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """How the connection is encrypted: libpq's `sslmode`, and the root certificates to trust.

    root_cert: a PEM file; None and `system` mean the system's store.
    """

    mode: SslMode = "prefer"
    root_cert: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One server of a profile. A host that starts with `/` is the folder of a Unix socket.

    via: an address to connect to instead, such as a proxy's of a drill; TLS still asks for the name `host`.
    """

    host: str
    port: int = 5432
    via: tuple[str, int] | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One database that callers can name.

    password: where the secret is (`env:NAME`, `file:PATH`, `keyvault:NAME`) or the literal itself,
    after `literal:` where it could be mistaken for one of these; never shown.
    target: which of the endpoints may answer. cache_s: seconds that a catalogue answer may be old.
    overrides: which values came from the environment instead of the file, as key -> variable.
    """

    name: str
    endpoints: tuple[Endpoint, ...]
    database: str
    user: str
    password: str | None = field(default=None, repr=False)
    tls: Tls = Tls()
    pool: PoolSettings = PoolSettings()
    limits: Limits = Limits()
    retry: RetrySettings = RetrySettings()
    azure: AzureSettings = AzureSettings()
    target: Target = "any"
    pooler: Pooler = "none"
    posture: Posture = "warn"
    cache_s: float = 0.0
    allow_functions: tuple[str, ...] = ()
    schemas: tuple[str, ...] = ()
    search_path: tuple[str, ...] = ()
    description: str | None = None
    production: bool = False
    overrides: tuple[tuple[str, str], ...] = ()

    @property
    def address(self) -> str:
        """Return `host:port[,host:port…]/database`, for people."""
        return f"{','.join(str(endpoint) for endpoint in self.endpoints)}/{self.database}"

    @property
    def is_azure(self) -> bool:
        """Say whether the profile is one of an Azure server."""
        return self.azure.server_type is not None or self.azure.use_ad

    @property
    def is_pooled(self) -> bool:
        """Say whether a pooler in transaction mode stands before the servers."""
        return self.pooler != "none"

    def unsupported(self) -> str | None:
        """Return what of this profile the version cannot do yet, as a clause, or None.

        The configuration loads all the same: a profile that cannot be used never stops the others.
        """
        features = (
            (self.azure.use_ad, "use_azure_ad = true"),
            ((self.password or "").startswith("keyvault:"), "a password from Key Vault"),
            (self.cache_s > 0, f"cache_s = {self.cache_s:g}"),
        )
        found = [text for is_asked, text in features if is_asked]
        return f"not in this version yet: {', '.join(found)}" if found else None
