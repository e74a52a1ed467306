"""Blank secrets in text that leaves the process: logs, errors, reports.

One function and a logging filter that uses it. It knows the shapes of secrets, and those values that
it is given; it is a net below the rule that no secret is put into a text in the first place.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote

BLANK: Final = "***"
# A secret of three characters would blank half of every word.
SHORTEST_KNOWN: Final = 4

_WORDS = (
    "password|passwd|passphrase|pwd|secret|access[_-]?token|refresh[_-]?token|id[_-]?token|gateway[_-]?token"
    "|account[_-]?key|access[_-]?key|access[_-]?signature|api[_-]?key"
)
# Bounds keep the search linear in texts that begin like a secret a thousand times.
_SECRETS = re.compile(
    rf"""
      (?P<dsn>postgres(?:ql)?://[^\s:/@?\#]{{0,256}}:)[^\s"'`<>]{{1,1024}}@     # up to the last @: it may be unescaped
    | (?P<url>://[^\s:/@?\#]{{0,256}}:)[^\s/@"'`<>]{{1,1024}}@
    | (?P<key>(?:{_WORDS})["']?\s{{0,4}}(?:=|(?<=["'])\s{{0,4}}:)\s{{0,4}})
      (?!["']?(?:env|file|keyvault):)                                           # where a secret is, is none
      (?:"(?:[^"\\]|\\.){{0,4096}}"|'(?:[^'\\]|\\.){{0,4096}}'|[^\s&;,"')\]}}]{{1,4096}})
    | (?P<header>authorization["']?\s{{0,4}}[:=]\s{{0,4}}["']?(?:bearer|basic)\s{{1,4}})[^\s"',]{{1,8192}}
    | (?P<bearer>\bbearer\s{{1,4}})(?=[^\s"',]{{0,8192}}[0-9._~+/=-])[A-Za-z0-9._~+/=-]{{8,8192}}
    | \beyJ[A-Za-z0-9_-]{{5,2048}}\.[A-Za-z0-9_-]{{5,}}(?:\.[A-Za-z0-9_-]*)?      # a JSON web token
    """,
    re.VERBOSE | re.IGNORECASE,
)


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Return the text with every secret in it replaced by `***`.

    Blanked are the passwords of URLs, the values of keys like `password=` and `AccountKey=`, bearer and
    JSON web tokens, and each of `secrets` of 4 characters or more, also as a URL would write it.
    """
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= SHORTEST_KNOWN:
            text = text.replace(secret, BLANK).replace(quote(secret, safe=""), BLANK)
    return _SECRETS.sub(_blanked, text)


def _blanked(match: re.Match[str]) -> str:
    if match.lastgroup is None:
        return BLANK
    at_sign = "@" if match.lastgroup in ("dsn", "url") else ""
    return f"{match[match.lastgroup]}{BLANK}{at_sign}"


class RedactingFilter(logging.Filter):
    """Blanks the secrets of a record: its message with arguments, its traceback and its stack.

    It belongs on a handler, so that records of every logger pass it. `secrets` as for `redact`.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        self._secrets = tuple(secrets)

    def filter(self, record: logging.LogRecord) -> bool:
        """Blank what the record would say, and let it pass."""
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError):  # arguments that do not fit must not lose the line
            message = f"{record.msg} (with arguments that do not fit)"
        record.msg = redact(message, self._secrets)
        record.args = ()
        if record.exc_info:
            # The text stands for the exception from here on: a formatter would render it anew.
            record.exc_text = record.exc_text or logging.Formatter().formatException(record.exc_info)
            record.exc_info = None
        if record.exc_text:
            record.exc_text = redact(record.exc_text, self._secrets)
        if record.stack_info:
            record.stack_info = redact(record.stack_info, self._secrets)
        return True
