"""How a connection is encrypted: the profile's `Tls` as what a dial has to do.

The modes mean what they mean to libpq. asyncpg is never told a mode by name, because it would then read
PGSSLROOTCERT, PGSSLCERT, ~/.postgresql/* and more of the environment, which belong to no profile.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from gateway.errors import ConfigError
from gateway.profiles import Tls

SYSTEM_STORE = "system"
# asyncpg's whole answer where a server says that it has no TLS (connect_utils.TLSUpgradeProto); it has no class.
_NO_TLS = "rejected SSL upgrade"
# pg_hba.conf has no entry for this user with encryption; before any password was asked for.
_NOT_ADMITTED = "28000"


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsPlan:
    """What to pass to `asyncpg.connect(ssl=…)`: the context, or False where it is None.

    required: whether the dial fails where the server will not encrypt. Unix sockets ignore all of it.
    """

    context: ssl.SSLContext | None
    required: bool

    @property
    def verifies(self) -> bool:
        """Say whether the server has to prove who it is."""
        return self.context is not None and self.context.verify_mode is not ssl.CERT_NONE

    def goes_on_without(self, error: BaseException) -> bool:
        """Say whether, after this error of the encrypted dial, one without encryption is due.

        Only with `prefer`: the server has no TLS, speaks none that we do, or admits the user without
        it only. A refused password is no reason: it would be sent once more, in the clear.
        """
        if self.required or self.context is None:
            return False
        return (
            (isinstance(error, ConnectionError) and _NO_TLS in str(error))
            or isinstance(error, ssl.SSLError)
            or getattr(error, "sqlstate", None) == _NOT_ADMITTED
        )


def tls_plan(tls: Tls) -> TlsPlan:
    """Return the plan of a dial; raise ConfigError where the root certificates cannot be read.

    `require` verifies the chain if it has root certificates, as libpq does. It reads files: keep the
    plan as long as the profile's pool lives.
    """
    if tls.mode == "disable":
        return TlsPlan(context=None, required=False)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["postgresql"])  # PostgreSQL 17 asks for it; older ones ignore it
    verifies = tls.mode in ("verify-ca", "verify-full") or (tls.mode == "require" and tls.root_cert is not None)
    context.check_hostname = tls.mode == "verify-full"
    context.verify_mode = ssl.CERT_REQUIRED if verifies else ssl.CERT_NONE
    if verifies:
        _load_roots(context, tls.root_cert)
    return TlsPlan(context=context, required=tls.mode != "prefer")


def _load_roots(context: ssl.SSLContext, root_cert: str | None) -> None:
    if root_cert is None or root_cert == SYSTEM_STORE:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        return
    try:
        context.load_verify_locations(cafile=root_cert)
    except ssl.SSLError:
        problem = "holds no certificate in PEM form"
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    else:
        return
    raise ConfigError(
        [f'ssl_root_cert = "{root_cert}": the file {problem}'],
        hint="name a PEM file with the root certificates, or leave ssl_root_cert out to trust the system's store",
    )
