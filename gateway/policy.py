"""What a caller may do with a profile: pure, asked before anything is read."""

from __future__ import annotations

from typing import Final

from gateway.errors import Forbidden, InvalidArguments
from gateway.profiles import Profile

# Catalogues describe the database and are open to every role; what must stay hidden in them, `sql_rules` names.
_ALWAYS_READABLE: Final = frozenset({"pg_catalog", "information_schema"})


def check_schema(profile: Profile, schema: str) -> None:
    """Raise Forbidden when the profile's `schemas` do not include `schema`."""
    if profile.schemas and schema not in profile.schemas and schema not in _ALWAYS_READABLE:
        raise Forbidden(
            f"schema {schema!r} is not among those that profile {profile.name} allows",
            hint=f"Use one of: {', '.join(profile.schemas)}.",
            profile=profile.name,
        )


def check_rows(profile: Profile, limit: int) -> None:
    """Raise InvalidArguments when a caller asks for more rows than the profile allows."""
    if limit > profile.limits.rows:
        raise InvalidArguments(
            f"limit = {limit} is above the most of profile {profile.name}, {profile.limits.rows}",
            hint=f"Ask for {profile.limits.rows} or fewer and read on in pages.",
            profile=profile.name,
        )
