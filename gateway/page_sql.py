"""The SQL around a caller's SELECT that makes PostgreSQL write one bounded page of JSON.

The database writes each value itself: that is exact for every type, also for those that no driver can
decode, and nothing that would be thrown away is sent. One rule per family of types, see docs/values.md.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gateway.pg_types import TypeInfo

# A number of 16 digits or more where jsonb's text can only hold a number. jsonb writes no exponents.
_LONG_NUMBER_IN_JSONB: Final = r"(^|[:\[,] ?)-?[0-9][0-9.]{15,}"
_LONG_NUMBER_IN_ARRAY: Final = r"[0-9.]{16,}"
# What jsonb cannot hold, or writes in another way; in a string it only costs the reader a second parse.
_NOT_FOR_JSONB: Final = r"\\u0000|\\ud[89a-f]|(^|[:[,])[[:space:]]*-?[0-9.]+e[-+]?[0-9]"
# Readers of JSON give up on deep nesting: pydantic at 200 levels, orjson at 1024.
_DEPTH: Final = 100
# Casting json to jsonb needs stack; what may be deeper than this is not looked into.
_BRACKETS: Final = 1000
_LEAST_CELL_BYTES: Final = 4
# PostgreSQL's most for one SELECT is 1664.
_MOST_COLUMNS: Final = 1600
# White space as PostgreSQL's own functions write it: json_agg, json_build_object, json_object_agg, jsonb.
_OWN_SPACES: Final = (
    ("', '||chr(10)||' '", ","),
    ("' : '", ":"),
    ("'{ '", "{"),
    ("' }'", "}"),
    ("', '", ","),
    ("': '", ":"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PageColumn:
    """One column of a page: its name as the caller's statement gives it, and its type."""

    name: str
    type: TypeInfo


def _cut(text: str, cell: int, size: str | None = None) -> str:
    """Return SQL for the mark of a cut value: its beginning and its whole length in bytes."""
    # Characters are not bytes: where the first `cell` characters are too many bytes, a quarter never is.
    head = (
        f"CASE WHEN octet_length(left({text},{cell}))<={cell} "
        f"THEN left({text},{cell}) ELSE left({text},{cell // 4}) END"
    )
    return f"""'{{"$cut":'||to_json({head})::text||',"$bytes":'||{size or f"octet_length({text})"}||'}}'"""


def _quoted(value: str) -> str:
    """Return SQL that puts quotation marks around a value whose text needs no escaping."""
    return f"""'"'||{value}::text||'"'"""


def _bounded(text: str, whole: str, cell: int) -> str:
    return f"CASE WHEN octet_length({text})<={cell} THEN {whole} ELSE {_cut(text, cell)} END"


def _array(column: str, text: str, cell: int, exact: str) -> str:
    # A literal that starts with [ has lower bounds other than 1, which JSON cannot say.
    whole = f"CASE WHEN {text} LIKE '[%'{exact} THEN to_json({text})::text ELSE array_to_json({column})::text END"
    return _bounded(text, whole, cell)


def _is_deep(value: str, text: str) -> str:
    """Return SQL that says whether a jsonb value is nested too deeply for some readers."""
    # The cheap test first.
    may_be = f"octet_length({text})>{2 * _DEPTH} AND {_brackets(text)}>{_DEPTH}"
    return f"({may_be} AND jsonb_path_exists({value},'$.**{{{_DEPTH}}}'))"


def _brackets(text: str) -> str:
    return f"length({text})-length(translate({text},'[{{',''))"


def _has_long_number(text: str) -> str:
    # The second expression is exact and slow; the first lets it look at few values.
    return f"({text} ~ '[0-9.]{{16}}' AND {text} ~ '{_LONG_NUMBER_IN_JSONB}')"


def _jsonb(column: str, text: str) -> str:
    """Return SQL that embeds a `jsonb` value, or its text where JSON within JSON would be misread.

    A string is one because text stands for JSON text, null because it would be taken for NULL, a key of ours because
    it would be taken for the mark of a cut value.
    """
    t = text
    return (
        f"CASE WHEN jsonb_typeof({column}) IN ('string','null') OR {_has_long_number(t)} "
        f"OR strpos({t},'\"$cut\"')>0 OR {_is_deep(column, t)} THEN to_json({t})::text ELSE {t} END"
    )


def _without_own_spaces(text: str) -> str:
    for spaced, bare in _OWN_SPACES:
        text = f"replace({text},{spaced},'{bare}')"
    return text


def _json_as_written(column: str, text: str) -> str:
    """Return SQL that embeds a `json` value only when a reader of JSON gets back what was stored.

    A repeated key makes the jsonb form shorter, so equal lengths mean that there is none; other white space than
    PostgreSQL's own makes it longer. What jsonb cannot hold must not reach the cast: it would fail the page.
    """
    t = text
    plain = f"length({_without_own_spaces(t)})"
    normal = f"length({_without_own_spaces(f'{column}::jsonb::text')})"
    return (
        f"CASE WHEN {t} ~* '{_NOT_FOR_JSONB}' OR json_typeof({column}) IN ('string','null') "
        f"OR {_has_long_number(t)} OR strpos({t},'\"$cut\"')>0 OR {_brackets(t)}>{_BRACKETS} "
        f"THEN to_json({t})::text "
        f"WHEN {plain}={normal} AND NOT {_is_deep(f'{column}::jsonb', t)} THEN {t} ELSE to_json({t})::text END"
    )


def text_sql(column: str, kind: TypeInfo) -> str | None:
    """Return SQL for the text of `column` where writing it costs something, so that it is done once; else None."""
    match kind.family:
        case "numeric" | "json" | "jsonb" | "array" | "array_exact":
            return f"{column}::text"
        case "array_literal" | "output":
            # The output function and never a cast: a cast could be somebody's own function.
            return f"CASE WHEN num_nulls({column})=0 THEN format('%s',{column}) END"
        case _:
            return None


def cell_sql(column: str, kind: TypeInfo, cell: int, *, text: str | None = None) -> str:  # noqa: C901, PLR0912 - a table: one case a family
    """Return SQL that writes `column` as JSON text of about `cell` bytes at most, NULL for NULL.

    text: what holds its `text_sql`.
    """
    c = column
    t = text or text_sql(column, kind) or f"{c}::text"
    match kind.family:
        case "integer" | "boolean":
            return t
        case "bigint":
            return f"CASE WHEN {c} BETWEEN -9007199254740991 AND 9007199254740991 THEN {t} ELSE {_quoted(c)} END"
        case "float":
            return f"CASE WHEN {c} IN ('NaN','Infinity','-Infinity') THEN {_quoted(c)} ELSE {t} END"
        case "numeric":
            # Fifteen digits survive a double (IEEE 754 binary64, DBL_DIG); NaN and infinities are not below 1e15.
            short = f"length({t})<=16 AND abs({c})<1e15"
            return f"CASE WHEN {short} THEN {t} ELSE {_bounded(t, _quoted(t), cell)} END"
        case "moment":
            return f"to_json({c})::text"
        case "plain":
            # Only bit strings can be long.
            return _bounded(t, _quoted(c), cell)
        case "text":
            return _bounded(t, f"to_json({t})::text", cell)
        case "bytea":
            octets = cell * 3 // 4
            encoded = f"replace(encode(substring({c} FROM 1 FOR {octets}),'base64'),chr(10),'')"
            return (
                f"""CASE WHEN octet_length({c})<={octets} THEN '"'||{encoded}||'"' """
                f"""ELSE '{{"$cut":"'||{encoded}||'","$bytes":'||octet_length({c})||'}}' END"""
            )
        case "jsonb":
            return _bounded(t, _jsonb(c, t), cell)
        case "json":
            return _bounded(t, _json_as_written(c, t), cell)
        case "array":
            return _array(c, t, cell, "")
        case "array_exact":
            return _array(c, t, cell, f" OR {t} ~ '{_LONG_NUMBER_IN_ARRAY}'")
        case "array_literal" | "output":
            return _bounded(t, f"to_json({t})::text", cell)


@dataclass(frozen=True, slots=True)
class _Source:
    """A FROM item: how it addresses each column, and the text of those whose text costs something."""

    sql: str
    cells: list[str]
    texts: list[str | None]


def _source(statement: str, columns: Sequence[PageColumn], *, by_name: bool, limit: str) -> _Source:
    """Return the caller's statement as a FROM item of at most `limit` rows.

    Addressed by name, a column that is added, dropped or renamed behind a `*` makes the statement fail to parse,
    where numbering would answer with yesterday's columns; the condition itself is folded away by the planner.
    """
    if by_name:
        names = ['"' + column.name.replace('"', '""') + '"' for column in columns]
    else:
        names = [f"c{i}" for i in range(len(columns))]
    taken = {column.name for column in columns}
    prefix = next(
        p for p in itertools.chain(("t", "text"), (f"t{i}_" for i in itertools.count())) if not _is_taken(p, taken)
    )
    texts: list[str | None] = []
    extras = []
    has_room = len(columns) + sum(text_sql("", column.type) is not None for column in columns) <= _MOST_COLUMNS
    for i, (name, column) in enumerate(zip(names, columns, strict=True)):
        text = text_sql(f"_s.{name}", column.type) if has_room else None
        texts.append(f"_q.{prefix}{i}" if text is not None else None)
        if text is not None:
            extras.append(f",{text} AS {prefix}{i}")
    # The text stands on lines of its own so that a trailing comment cannot swallow what follows. LIMIT keeps the
    # planner from merging the levels: an expression of the caller's is computed once, however often a cell names it.
    aliases = f"({','.join(names)})" if names and not by_name else ""
    inner = f"(\n{statement}\n) AS _s"
    if extras:
        # OFFSET 0 does the same for values and their texts.
        inner = f"(SELECT * FROM {inner} OFFSET 0) AS _s"
    sql = f"(SELECT _s.*{''.join(extras)} FROM {inner}{aliases} LIMIT {limit}::bigint) AS _q"
    cells = [f"_q.{name}" for name in names]
    if by_name:
        every = ",".join([*cells, *(text for text in texts if text is not None)])
        sql += f" WHERE true OR EXISTS (VALUES (_q.*),({every}))"
    return _Source(sql, cells, texts)


def _is_taken(prefix: str, names: set[str]) -> bool:
    return any(name.startswith(prefix) and name[len(prefix) :].isdigit() for name in names)


def page_sql(
    statement: str,
    columns: Sequence[PageColumn],
    *,
    first_param: int,
    cell_bytes: int,
    by_name: bool = False,
    key: Sequence[int] = (),
) -> str:
    """Return the statement that answers one row: rows seen, rows kept, bytes of the first, their JSON, last key.

    Its three parameters from `$first_param` on are the rows wanted (bigint), one more than that, and the bytes
    that all rows may have together (bigint). A row past either bound is counted but not sent, so that the caller
    can say exactly whether and why something was left out; a first row is always sent. `key` gives the places of
    columns whose values, as text, are returned for the last row that was kept.
    """
    wanted, fetched, budget = (f"${first_param + i}" for i in range(3))
    source = _source(statement, columns, by_name=by_name, limit=fetched)
    cell = max(_LEAST_CELL_BYTES, cell_bytes)
    cells = ",".join(
        cell_sql(name, column.type, cell, text=text)
        for name, text, column in zip(source.cells, source.texts, columns, strict=True)
    )
    last = f",ARRAY[{','.join(f'({source.cells[place]})::text' for place in key)}]::text[] AS k" if key else ""
    pass_key = ",k" if key else ""
    answer_key = ",(array_agg(array_to_json(k)::text ORDER BY n DESC) FILTER (WHERE j IS NOT NULL))[1]" if key else ""
    return (
        f"SELECT count(*),count(j),max(b) FILTER (WHERE n=1),string_agg(j,','){answer_key} FROM ("
        f"SELECT n,octet_length(j) AS b,CASE WHEN n<={wanted}::bigint AND (n=1 OR s<={budget}::bigint) "
        f"THEN j END AS j{pass_key} FROM ("
        f"SELECT j{pass_key},row_number() OVER w AS n,sum(octet_length(j)+1) OVER w AS s FROM ("
        f"SELECT '['||array_to_string(ARRAY[{cells}]::text[],',','null')||']' AS j{last} FROM {source.sql} "
        # Without a fence the levels become one, and each row is written once for itself and once for its length.
        "OFFSET 0) AS _r WINDOW w AS (ROWS UNBOUNDED PRECEDING)) AS _w "
        # The row that crosses the bound, or that follows a first row which alone is past it, is seen but not kept.
        f"WHERE s-octet_length(j)-1<={budget}::bigint OR n=2) AS _p"
    )
