"""What a tool is: its words for a model, its arguments, and how a table is named.

Arguments are described once, as rows; the JSON schema that clients see and the check of what they send are both made
from them. Every tool's answer is an object that names its profile first.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final, Literal

from gateway.app import Gateway
from gateway.errors import InvalidArguments, NotFound
from gateway.profiles import Profile
from gateway.progress import Tell
from gateway.reading import Reading
from gateway.results import to_json
from gateway.suggest import near_tables

Answer = dict[str, Any]
ArgumentType = Literal["string", "integer", "array"]
_REQUIRED: Final = object()
# Longer ones are beyond every bound, and take long to read.
_WHOLE_NUMBER: Final = re.compile(r"[0-9]{1,20}")
# PostgreSQL cuts longer names; quoted and with its schema a name may be four times as long.
_NAME_CHARS: Final = 300
# What a tool still adds to an answer that was made to fit.
_HINT_BYTES: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """One argument: type, default (required without one), and bounds for integers (`least`, `most`)."""

    name: str
    description: str
    type: ArgumentType = "string"
    default: Any = _REQUIRED
    least: int | None = None
    most: int | None = None
    max_chars: int | None = None

    def schema(self) -> dict[str, Any]:
        """Return the argument's JSON schema."""
        schema: dict[str, Any] = {"type": self.type, "description": self.description}
        if self.type == "array":
            schema["items"] = {}
        if self.default is not _REQUIRED and self.default not in (None, []):
            schema["default"] = self.default
        if self.least is not None:
            schema["minimum"] = self.least
        if self.most is not None:
            schema["maximum"] = self.most
        return schema

    def check(self, value: Any, tool: str) -> Any:
        """Return the value as the tool uses it, or raise InvalidArguments that says what to change."""
        place = f"{tool}: {self.name}"
        match self.type:
            case "integer":
                return self._integer(value, place)
            case "array":
                if not isinstance(value, list):
                    raise InvalidArguments(
                        f"{place} must be an array, not {_kind(value)}", hint='For example [1, "a"].'
                    )
                return value
            case _:
                return self._string(value, place)

    def _string(self, value: Any, place: str) -> str:
        if not isinstance(value, str):
            raise InvalidArguments(f"{place} must be a string, not {_kind(value)}", hint="Put it in quotation marks.")
        if self.max_chars is not None and len(value) > self.max_chars:
            raise InvalidArguments(f"{place} has {len(value)} characters, at most {self.max_chars} are read")
        if "\x00" in value:
            raise InvalidArguments(f"{place} must not contain the character NUL")
        if not value.strip():
            raise InvalidArguments(f"{place} must not be empty", hint=self.description)
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidArguments(f"{place} is not valid Unicode text") from None
        return value

    def _integer(self, value: Any, place: str) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value.strip()):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidArguments(f"{place} must be a whole number, not {_kind(value)}")
        if self.least is not None and value < self.least:
            raise InvalidArguments(f"{place} = {value} is below the least, {self.least}")
        if self.most is not None and value > self.most:
            raise InvalidArguments(
                f"{place} = {value} is above the most, {self.most}", hint="Read on in pages instead."
            )
        return value


def _kind(value: Any) -> str:
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "an array"}
    return "null" if value is None else names.get(type(value), "an object")


PROFILE: Final = Argument(name="profile", description="Database profile; left out: the active one.", default=None)
SCHEMA: Final = Argument(name="schema", description="Schema.", default="public", max_chars=_NAME_CHARS)
TABLE: Final = Argument(
    name="table_name", description="Table or view, also as schema.table.", max_chars=2 * _NAME_CHARS
)

Work = Callable[[Reading, Mapping[str, Any]], Awaitable[Answer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """One tool: what a model reads of it, and what it does."""

    name: str
    title: str
    description: str
    arguments: tuple[Argument, ...]
    output: Mapping[str, Any]
    work: Work

    async def run(
        self, gateway: Gateway, arguments: Mapping[str, Any], *, tell: Tell | None = None
    ) -> tuple[Profile, Answer]:
        """Return the profile that answered, and its answer to checked arguments. tell: hears what is waited for."""
        return await gateway.read(
            self.name,
            arguments["profile"],
            lambda reading: self.work(reading, arguments),
            query=arguments.get("query"),
            tell=tell,
        )

    def input_schema(self) -> dict[str, Any]:
        """Return the JSON schema of the arguments."""
        arguments = (*self.arguments, PROFILE)
        schema: dict[str, Any] = {
            "type": "object",
            "properties": {argument.name: argument.schema() for argument in arguments},
            "additionalProperties": False,
        }
        required = [argument.name for argument in arguments if argument.default is _REQUIRED]
        if required:
            schema["required"] = required
        return schema

    def output_schema(self) -> dict[str, Any]:
        """Return the JSON schema of the answer."""
        properties = {"profile": {"type": "string"}, **self.output, "error": {"type": "object"}}
        # Some clients hold failures against this schema, too.
        return {
            "type": "object",
            "properties": properties,
            "anyOf": [{"required": ["profile"]}, {"required": ["error"]}],
        }

    def check(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return all arguments, defaults included.

        Raises InvalidArguments for an unknown, missing or unfit one. A null stands for one that is left out.
        """
        known = {argument.name: argument for argument in (*self.arguments, PROFILE)}
        for name in given:
            if name not in known:
                near = get_close_matches(name, known, n=1)
                did_you_mean = f"Did you mean {near[0]}? " if near else ""
                raise InvalidArguments(
                    f"{self.name} has no argument {name[:64]!r}", hint=f"{did_you_mean}It takes: {', '.join(known)}."
                )
        checked: dict[str, Any] = {}
        for name, argument in known.items():
            value = given.get(name)
            if value is not None:
                checked[name] = argument.check(value, self.name)
            elif argument.default is _REQUIRED:
                raise InvalidArguments(f"{self.name} needs {name}", hint=argument.description)
            else:
                checked[name] = argument.default
        return checked


TABLE_OUTPUT: Final = {
    "columns": {"type": "array"},
    "rows": {"type": "array"},
    "row_count": {"type": "integer"},
    "truncated": {"type": "boolean"},
}


def split_name(text: str) -> list[str]:
    """Return the parts of a name at the dots that stand outside quotation marks, with the marks still on."""
    parts, inside, start = [], False, 0
    for place, character in enumerate(text):
        if character == '"':
            inside = not inside
        elif character == "." and not inside:
            parts.append(text[start:place])
            start = place + 1
    return [*parts, text[start:]]


def _folded(part: str) -> str:
    """Return an identifier as PostgreSQL reads it: quoted as it stands, else in lower case."""
    if len(part) > 1 and part.startswith('"') and part.endswith('"'):
        return part[1:-1].replace('""', '"')
    return part.lower()


def name_candidates(table_name: str, schema: str) -> tuple[list[str], list[str]]:
    """Return the schemas and names that a caller may have meant, the best first, as two lists of equal length.

    A name exactly as it was given comes before the one that PostgreSQL would read, and a table whose own name has a
    dot before one in another schema.
    """
    parts = split_name(table_name)
    pairs = [(schema, table_name), (schema, _folded(table_name)) if len(parts) == 1 else (schema, table_name)]
    if len(parts) > 1:
        # A third part in front is the database, which the profile has chosen already.
        first, second = parts[-2], parts[-1]
        pairs += [(first.strip('"'), second.strip('"')), (_folded(first), _folded(second))]
    pairs += [(schema.lower(), name) for _, name in pairs[:2]]
    unique = list(dict.fromkeys(pairs))
    return [pair[0] for pair in unique], [pair[1] for pair in unique]


# The relation that a caller means, as `t`: oid, schema, name, kind; $1 and $2 are `name_candidates`.
TARGET_CTE: Final = """
WITH t AS MATERIALIZED (
  SELECT c.oid, n.nspname, c.relname, c.relkind, c.relpages, c.reltuples, c.relispartition, c.relrowsecurity,
    c.relforcerowsecurity, c.relpartbound, c.relpersistence, c.reltoastrelid
  FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS w(s, r, o)
  JOIN pg_namespace n ON n.nspname = w.s JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.r
  WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') ORDER BY w.o LIMIT 1)"""

# A FROM item that makes the rest of its statement wait 0.3 s at most for a lock: behind a migration an answer without
# what needs the lock is better than none.
IMPATIENT: Final = "(SELECT set_config('lock_timeout', '300', true)) AS impatient"

KIND_SQL: Final = (
    "CASE {0}.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'partitioned table' WHEN 'v' THEN 'view' "
    "WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table' END"
)


async def no_such_table(reading: Reading, schemas: Sequence[str], names: Sequence[str]) -> NotFound:
    """Return the error for a table that does not exist, with the nearest real names."""
    near = await near_tables(reading.connection, names[0], schemas=reading.profile.schemas)
    return NotFound(
        f"no table or view {schemas[-1]}.{names[-1]}" if "." not in names[0] else f"no table or view {names[0]}",
        hint=f"Did you mean {' or '.join(near)}?" if near else "Use `search_tables` or `list_tables` to find it.",
    )


def fit_rows(answer: Answer, page_bytes: int) -> bool:
    """Drop rows from the end of a columns-once answer until it fits a page; return whether any had to go."""
    rows = answer["rows"]
    spare = page_bytes - _HINT_BYTES - len(to_json({**answer, "rows": []}))
    kept = 0
    for row in rows:
        spare -= len(to_json(row)) + 1
        if spare < 0:
            break
        kept += 1
    answer["rows"], answer["row_count"] = rows[:kept], kept
    return kept < len(rows)


def quoted(*parts: str) -> str:
    """Return a name for SQL, every part in quotation marks."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)
