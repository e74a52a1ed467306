"""The SQL around a caller's SELECT that makes PostgreSQL write one bounded page of JSON.

The database writes each value itself: that is exact for every type, also for those that no driver can
decode, and nothing that would be thrown away is sent. One rule per family of types, see docs/values.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gateway.pg_types import TypeInfo

# A number of 16 digits or more where jsonb's text can only hold a number. jsonb writes no exponents.
_LONG_NUMBER_IN_JSONB: Final = r"(^|[:\[,] ?)-?[0-9][0-9.]{15,}"
_LONG_NUMBER_IN_ARRAY: Final = r"[0-9.]{16,}"
_NOT_FOR_JSONB: Final = r"\\u0000|\\ud[89a-f]|[0-9]e[-+]?[0-9]"
_LEAST_CELL_BYTES: Final = 16


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
    whole = (
        f"CASE WHEN {text} LIKE '[%'{exact} THEN to_json({text})::text ELSE array_to_json({column})::text END"
    )
    return _bounded(text, whole, cell)


def _json_as_written(column: str) -> str:
    """Return SQL that embeds a `json` value only when a reader of JSON gets back what was stored.

    A repeated key makes the jsonb form shorter, so equal lengths mean that there is none; other white space than
    PostgreSQL's own makes it longer. What jsonb cannot hold must not reach the cast: it would fail the page.
    """
    t = f"{column}::text"
    plain = f"length(replace(replace({t},', ',','),': ',':'))"
    normal = f"length(replace(replace({column}::jsonb::text,', ',','),': ',':'))"
    return (
        f"CASE WHEN {t} ~* '{_NOT_FOR_JSONB}' OR json_typeof({column})='string' OR {t} ~ '{_LONG_NUMBER_IN_JSONB}' "
        f"THEN to_json({t})::text WHEN {plain}={normal} THEN {t} ELSE to_json({t})::text END"
    )


def cell_sql(column: str, kind: TypeInfo, cell: int) -> str:  # noqa: C901, PLR0912 - a table: one case a family
    """Return SQL that writes `column` as JSON text of about `cell` bytes at most, NULL for NULL."""
    c = column
    written = f"CASE WHEN num_nulls({c})=0 THEN format('%s',{c}) END"
    match kind.family:
        case "integer" | "boolean":
            return f"{c}::text"
        case "bigint":
            return f"CASE WHEN {c} BETWEEN -9007199254740991 AND 9007199254740991 THEN {c}::text ELSE {_quoted(c)} END"
        case "float":
            return f"CASE WHEN {c} IN ('NaN','Infinity','-Infinity') THEN {_quoted(c)} ELSE {c}::text END"
        case "numeric":
            # Fifteen digits survive a double (IEEE 754 binary64, DBL_DIG); NaN and infinities are not below 1e15.
            short = f"length({c}::text)<=16 AND abs({c})<1e15"
            return f"CASE WHEN {short} THEN {c}::text ELSE {_bounded(f'{c}::text', _quoted(c), cell)} END"
        case "moment":
            return f"to_json({c})::text"
        case "plain":
            # Only bit strings can be long.
            return _bounded(f"{c}::text", _quoted(c), cell)
        case "text":
            return _bounded(f"{c}::text", f"to_json({c}::text)::text", cell)
        case "bytea":
            octets = cell * 3 // 4
            encoded = f"replace(encode(substring({c} FROM 1 FOR {octets}),'base64'),chr(10),'')"
            return (
                f"""CASE WHEN octet_length({c})<={octets} THEN '"'||{encoded}||'"' """
                f"""ELSE '{{"$cut":"'||{encoded}||'","$bytes":'||octet_length({c})||'}}' END"""
            )
        case "jsonb":
            whole = (
                f"CASE WHEN jsonb_typeof({c})='string' OR {c}::text ~ '{_LONG_NUMBER_IN_JSONB}' "
                f"THEN to_json({c}::text)::text ELSE {c}::text END"
            )
            return _bounded(f"{c}::text", whole, cell)
        case "json":
            return _bounded(f"{c}::text", _json_as_written(c), cell)
        case "array":
            return _array(c, f"{c}::text", cell, "")
        case "array_exact":
            return _array(c, f"{c}::text", cell, f" OR {c}::text ~ '{_LONG_NUMBER_IN_ARRAY}'")
        case "array_literal" | "output":
            return _bounded(written, f"to_json({written})::text", cell)


def _source(statement: str, columns: Sequence[PageColumn], *, by_name: bool) -> tuple[list[str], str]:
    """Return how the columns of `statement` are addressed, and the FROM item that holds it.

    Addressed by name, a column that is added, dropped or renamed behind a `*` makes the statement fail to parse,
    where numbering would answer with yesterday's columns; the condition itself is folded away by the planner.
    """
    if not by_name:
        names = [f"c{i}" for i in range(len(columns))]
        aliases = f"({','.join(names)})" if names else ""
        return [f"_q.{name}" for name in names], f"(\n{statement}\n) AS _q{aliases}"
    cells = ['_q."' + column.name.replace('"', '""') + '"' for column in columns]
    same = f"VALUES (_q.*),({','.join(cells)})"
    return cells, f"(\n{statement}\n) AS _q WHERE true OR EXISTS ({same})"


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
    # The text stands on lines of its own so that a trailing comment cannot swallow what follows.
    addresses, source = _source(statement, columns, by_name=by_name)
    cell = max(_LEAST_CELL_BYTES, cell_bytes)
    cells = ",".join(cell_sql(name, column.type, cell) for name, column in zip(addresses, columns, strict=True))
    last = f",ARRAY[{','.join(f'({addresses[place]})::text' for place in key)}]::text[] AS k" if key else ""
    pass_key = ",k" if key else ""
    answer_key = ",(array_agg(array_to_json(k)::text ORDER BY n DESC) FILTER (WHERE j IS NOT NULL))[1]" if key else ""
    return (
        f"SELECT count(*),count(j),max(b) FILTER (WHERE n=1),string_agg(j,','){answer_key} FROM ("
        f"SELECT n,octet_length(j) AS b,CASE WHEN n<={wanted}::bigint AND (n=1 OR s<={budget}::bigint) "
        f"THEN j END AS j{pass_key} FROM ("
        f"SELECT j{pass_key},row_number() OVER w AS n,sum(octet_length(j)+1) OVER w AS s FROM ("
        f"SELECT '['||array_to_string(ARRAY[{cells}]::text[],',','null')||']' AS j{last} FROM {source} "
        f"LIMIT {fetched}::bigint) AS _r WINDOW w AS (ROWS UNBOUNDED PRECEDING)) AS _w "
        # The row that crosses the bound, or that follows a first row which alone is past it, is seen but not kept.
        f"WHERE s-octet_length(j)-1<={budget}::bigint OR n=2) AS _p"
    )
