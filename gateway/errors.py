"""Every error that leaves the gateway, drawn as one tree and split by who can mend it.

GatewayError
├── ConfigError            config_error        the operator, before start
├── InvalidArguments       invalid_arguments   the caller: change the arguments
├── UnknownProfile         unknown_profile     the caller: name another profile
├── Forbidden              forbidden           the caller may not, by policy
├── UnsafeSql              unsafe_sql          the statement is not read-only
├── BadQuery               bad_query           the statement is wrong
├── NotFound               not_found           no such table, column or schema
├── PermissionDenied       permission_denied   the database role may not
├── TooLarge               too_large           an input or answer past its limit
├── CallTimeout            timeout             the time for the call is up
├── CallCancelled          cancelled           the caller went away
├── Unavailable            unavailable         the database cannot be reached (transient)
├── Busy                   busy                all connections of the profile are taken (transient)
├── AuthFailed             auth_failed         the database refused the login
├── TlsFailed              tls_failed          the encrypted connection was refused or not trusted
└── InternalError          internal            ours

`transient` says whether the same call may succeed by itself a little later.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

# Whether the same read may be tried again inside its deadline: never, at most once more, for as long as there is time,
# or so unless the server turns out to have gone down under it.
Repeat = Literal["never", "once", "always", "unless_crashed"]


class GatewayError(Exception):
    """What went wrong, which one, and what to do instead.

    `message` names the thing and what was expected; `hint` is the next step; `position` counts
    characters of the caller's statement from 1, as PostgreSQL does.
    """

    code: ClassVar[str] = "internal"
    transient: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        profile: str | None = None,
        sqlstate: str | None = None,
        position: int | None = None,
        details: dict[str, Any] | None = None,
        repeat: Repeat = "never",
        is_unproven: bool = False,
    ) -> None:
        """Make an error. is_unproven: it may be a slip of the configuration, such as a mistyped port."""
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.profile = profile
        self.sqlstate = sqlstate
        self.position = position
        self.details = details or {}
        self.repeat: Repeat = repeat
        self.is_unproven = is_unproven

    def to_dict(self) -> dict[str, Any]:
        """Return the error as callers see it, without the keys that have nothing to say."""
        body: dict[str, Any] = {"code": self.code, "message": self.message}
        for key in ("hint", "profile", "sqlstate", "position"):
            value = getattr(self, key)
            if value is not None:
                body[key] = value
        body["retryable"] = self.transient
        body.update(self.details)
        return body


class ConfigError(GatewayError):
    """The configuration has faults; `faults` holds one sentence for each."""

    code = "config_error"

    def __init__(self, faults: list[str], *, hint: str | None = None) -> None:
        super().__init__("\n".join(faults), hint=hint)
        self.faults = faults


class InvalidArguments(GatewayError):
    code = "invalid_arguments"


class UnknownProfile(GatewayError):
    code = "unknown_profile"


class Forbidden(GatewayError):
    code = "forbidden"


class UnsafeSql(GatewayError):
    code = "unsafe_sql"


class BadQuery(GatewayError):
    code = "bad_query"


class NotFound(GatewayError):
    code = "not_found"


class PermissionDenied(GatewayError):
    code = "permission_denied"


class TooLarge(GatewayError):
    code = "too_large"


class CallTimeout(GatewayError):
    code = "timeout"


class CallCancelled(GatewayError):
    code = "cancelled"


class Unavailable(GatewayError):
    code = "unavailable"
    transient = True


class Busy(GatewayError):
    code = "busy"
    transient = True


class AuthFailed(GatewayError):
    code = "auth_failed"


class TlsFailed(GatewayError):
    code = "tls_failed"


class InternalError(GatewayError):
    code = "internal"


ALL_ERRORS: tuple[type[GatewayError], ...] = (
    ConfigError,
    InvalidArguments,
    UnknownProfile,
    Forbidden,
    UnsafeSql,
    BadQuery,
    NotFound,
    PermissionDenied,
    TooLarge,
    CallTimeout,
    CallCancelled,
    Unavailable,
    Busy,
    AuthFailed,
    TlsFailed,
    InternalError,
)
