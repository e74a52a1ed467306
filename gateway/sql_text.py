"""Caller's text into PostgreSQL's own syntax tree, within limits that keep parser and process alive.

Holds the first two layers: what must be true of a text before any lexer sees it, and the one call of the parser.
Judges nothing. The parser is imported on first use: it takes 55 ms.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.errors import BadQuery, InvalidArguments, TooLarge

# PostgreSQL's own lexer needs 9 s for 200 kB of nested `/*`, and 5 s for 100 kB of `+` without blanks, uninterruptibly.
MOST_BYTES = 100_000
MOST_COMMENT_OPENINGS = 100
MOST_OPERATOR_CHARACTERS = 1000  # in a row; a line of `=` in a comment may be that long
_OPERATORS = re.compile(r"[-+*/<>=~!@#%^&|`?]{" + str(MOST_OPERATOR_CHARACTERS + 1) + "}")
BLANKS = " \t\n\r\f\v"  # what that lexer skips; str.strip() would take more

ONE_STATEMENT = "send one SELECT, VALUES, TABLE, EXPLAIN of a SELECT, or SHOW"

Node = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """The caller's text as PostgreSQL's parser reads it; locations in `statements` count bytes of UTF-8."""

    text: str
    raw: bytes
    statements: list[Node]

    def position(self, location: int) -> int:
        """Return a location as PostgreSQL reports positions: in characters, from 1."""
        return len(self.raw[: max(location, 0)].decode(errors="ignore")) + 1


def parse(sql: str) -> Parsed:
    """Return the statements of a text; caller text reaches the parser through here only.

    Raises InvalidArguments for text without a statement, TooLarge past the limits that keep the parser quick and
    alive, BadQuery for what PostgreSQL would call a syntax error.
    """
    raw = _checked_bytes(sql)
    from pglast.parser import ParseError, parse_sql_json

    try:
        # Not `parse_sql`: its tree builder recurses in C and ends the process on deep nesting.
        statements: list[Node] = orjson.loads(parse_sql_json(sql)).get("stmts", [])
    except ParseError as error:
        message = str(error.args[0])
        if "stack depth" in message or "memory exhausted" in message:
            raise _too_deep() from error
        index = error.args[1] if len(error.args) > 1 else None
        raise BadQuery(
            message[:500],
            sqlstate="42601",
            position=len(sql) + 1 if index is None else index + 1,
            details={"rule": "syntax"},
        ) from error
    except (orjson.JSONDecodeError, RecursionError) as error:
        raise _too_deep() from error
    if not statements:
        raise InvalidArguments("the query holds no statement, only blanks and comments", hint=ONE_STATEMENT)
    return Parsed(text=sql, raw=raw, statements=statements)


def _too_deep() -> TooLarge:
    return TooLarge(
        "the query is nested too deeply",
        hint="long chains of operators can become one function or ANY(ARRAY[...]); UNIONs can become VALUES",
        details={"rule": "depth"},
    )


def _checked_bytes(sql: str) -> bytes:
    """Return the text as UTF-8 within the limits that PostgreSQL's lexer needs."""
    if len(sql) > MOST_BYTES:
        raise _too_long(len(sql))
    try:
        raw = sql.encode()
    except UnicodeEncodeError as error:
        raise BadQuery(
            "the query holds half of a surrogate pair, which is not a character",
            hint="send the character itself, not its UTF-16 halves",
            position=error.start + 1,
            details={"rule": "encoding"},
        ) from error
    if len(raw) > MOST_BYTES:
        raise _too_long(len(raw))
    zero = sql.find("\0")
    if zero >= 0:
        raise BadQuery(
            "the query holds a NUL character, which PostgreSQL text cannot",
            hint="remove it",
            position=zero + 1,
            details={"rule": "encoding"},
        )
    if sql.count("/*") > MOST_COMMENT_OPENINGS:
        raise TooLarge(
            f"the query holds more than {MOST_COMMENT_OPENINGS} times `/*`",
            hint="remove comments; nested ones keep the database's own lexer busy",
            details={"rule": "comments"},
        )
    run = _OPERATORS.search(sql)
    if run is not None:
        raise TooLarge(
            f"the query holds more than {MOST_OPERATOR_CHARACTERS} operator characters in a row",
            hint="shorten it; in a comment or string, break the line",
            position=run.start() + 1,
            details={"rule": "operators"},
        )
    if not sql.strip(BLANKS + ";"):
        raise InvalidArguments("the query is empty", hint=ONE_STATEMENT)
    return raw


def _too_long(size: int) -> TooLarge:
    return TooLarge(
        f"the query is {size} bytes long and {MOST_BYTES} are allowed",
        hint="pass long lists as one array parameter: WHERE id = ANY($1)",
        details={"rule": "length"},
    )
