"""Is this text one statement that only reads? Pure: text and what is known of the database in, a verdict out.

PostgreSQL's own parser reads the text and every node of its tree must be on a list; functions and operators are
judged by what the database says about them (`sql_functions.py`), relations and settings by short lists
(`sql_rules.py`). What a view, cast, domain, policy or a wrongly labelled function does cannot be seen in the text:
the transaction, the session and the role stop that. The parser is imported on first use: it takes 55 ms.

The file is longer than others because one walk needs all of its rules.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from gateway.errors import BadQuery, Forbidden, GatewayError, InvalidArguments, TooLarge, UnsafeSql
from gateway.sql_functions import FunctionCatalog, FunctionEntry
from gateway.sql_rules import (
    ASK_THE_OPERATOR,
    DENIED_ANYWHERE,
    DENIED_BUILTINS,
    DENIED_RELATIONS,
    DENIED_SCHEMAS,
    EXPLAIN_OPTIONS,
    EXTENSION_ALLOWED,
    FIELDS,
    FUNCTION_HINTS,
    KIND_OPERATORS,
    LEAVES,
    MORE_SETTINGS,
    MOST_BYTES,
    MOST_COMMENT_OPENINGS,
    MOST_NODES,
    NODE_FUNCTIONS,
    NODES,
    ONE_STATEMENT,
    OTHER_STATEMENT,
    REFUSED_FIELDS,
    REFUSED_SETTINGS,
    SETTING_FUNCTION,
    STATEMENTS,
    SYSTEM_SCHEMAS,
    VOLATILE_ALLOWED,
)

# Nodes start with a capital and fields do not, so that one set holds both.
_KNOWN = NODES | FIELDS
# A WITH is queued by `_enter_with`, each CTE with the names that it sees; names are read by the checks.
_ENDS = LEAVES | {"withClause", "fields", "funcname"}
_BLANKS = " \t\n\r\f\v"  # what PostgreSQL's lexer skips; str.strip() would take more
_SHOWN = 80  # characters of a name that a message repeats

Scope = frozenset[str]
Node = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A statement that may run.

    sql: the one statement, without what surrounds it in the caller's text, comments inside it kept; it may end in a
    comment, so what is put behind it belongs on a new line. offset: characters before it in that text. reads_star:
    a `*` that stands for columns. relations: (schema or None, name) of what it names, without its own CTEs.
    param_count: the highest $n. analyze: EXPLAIN that really runs the query.
    """

    kind: Literal["select", "explain", "show"]
    sql: str
    offset: int
    reads_star: bool = False
    relations: tuple[tuple[str | None, str], ...] = ()
    param_count: int = 0
    analyze: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """The caller's text as PostgreSQL's parser reads it; locations in `statements` count bytes of UTF-8."""

    text: str
    raw: bytes
    statements: list[Node]

    def position(self, location: int) -> int:
        """Return a location as PostgreSQL reports positions: in characters, from 1."""
        return len(self.raw[: max(location, 0)].decode(errors="ignore")) + 1


@dataclass(frozen=True, slots=True)
class _Fault:
    rule: str
    message: str
    hint: str
    error: type[GatewayError] = UnsafeSql
    sqlstate: str | None = None
    name: str | None = None

    def at(self, position: int | None) -> GatewayError:
        details = {"rule": self.rule} | ({"name": self.name} if self.name else {})
        return self.error(self.message, hint=self.hint, position=position, sqlstate=self.sqlstate, details=details)


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


def judge(
    sql: str,
    *,
    catalog: FunctionCatalog,
    allow_functions: Collection[str] = (),
    schemas: Collection[str] = (),
    search_path: Sequence[str] = ("public",),
) -> Judged:
    """Return the one statement of a text if all that can be seen of it only reads.

    allow_functions: `name` or `schema.name`, each lifts every rule about functions of that name; of an operator,
    name the function behind it. schemas: when given, relations elsewhere are Forbidden, except the catalogues;
    a name without schema passes if the whole search_path does. Of several faults the first in the text is raised.
    Also raises what `parse` does. CPU bound: about 10 µs for a small statement, up to a second at the limits, mostly
    without the GIL.
    """
    parsed = parse(sql)
    if len(parsed.statements) > 1:
        raise _Fault(
            "one-statement",
            f"the text holds {len(parsed.statements)} statements and one is allowed per call",
            "send them one by one; a semicolon at the end is fine",
        ).at(parsed.position(_start(parsed, parsed.statements[1])))
    (statement,) = parsed.statements
    start = _start(parsed, statement)
    length = statement.get("stmt_len", 0)
    end = statement.get("stmt_location", 0) + length if length else len(parsed.raw)
    text = parsed.raw[start:end].decode().rstrip(_BLANKS)
    offset = parsed.position(start) - 1
    ((kind, node),) = statement["stmt"].items()
    if kind == "VariableShowStmt":
        name = str(node.get("name", ""))
        fault = _setting_fault(name, catalog)
        if fault is not None:
            raise fault.at(offset + 1)
        return Judged(kind="show", sql=text, offset=offset)
    walk = _Walk(
        parsed,
        _Rules(
            catalog=catalog,
            allow=frozenset(allow_functions),
            schemas=frozenset(schemas),
            path=frozenset(search_path),
        ),
    )
    analyze = False
    query = statement["stmt"]
    if kind == "ExplainStmt":
        analyze = walk.explain_options(node)
        query = node["query"]
    if "SelectStmt" not in query:
        raise _statement_fault(parsed, statement, query, explain=kind == "ExplainStmt").at(offset + 1)
    walk.run(query)
    return Judged(
        kind="explain" if kind == "ExplainStmt" else "select",
        sql=text,
        offset=offset,
        reads_star=walk.reads_star,
        relations=tuple(walk.relations),
        param_count=walk.param_count,
        analyze=analyze,
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
    if not sql.strip(_BLANKS + ";"):
        raise InvalidArguments("the query is empty", hint=ONE_STATEMENT)
    return raw


def _too_long(size: int) -> TooLarge:
    return TooLarge(
        f"the query is {size} bytes long and {MOST_BYTES} are allowed",
        hint="pass long lists as one array parameter: WHERE id = ANY($1)",
        details={"rule": "length"},
    )


def _too_deep() -> TooLarge:
    return TooLarge(
        "the query is nested too deeply",
        hint="long chains of operators can become one function or ANY(ARRAY[...]); UNIONs can become VALUES",
        details={"rule": "depth"},
    )


def _start(parsed: Parsed, statement: Node) -> int:
    start: int = statement.get("stmt_location", 0)
    while start < len(parsed.raw) and chr(parsed.raw[start]) in _BLANKS:
        start += 1
    return start


def _statement_fault(parsed: Parsed, statement: Node, query: Node, *, explain: bool) -> _Fault:
    (kind,) = query
    rule, hint = STATEMENTS.get(kind, OTHER_STATEMENT)
    verb = _verb(parsed, statement) if not explain else ""
    if explain:
        return _Fault(rule, "EXPLAIN is allowed for a SELECT only, because its ANALYZE runs the statement", hint)
    return _Fault(rule, f"{verb} is not a read; only reads run here", f"{hint}. Or {ONE_STATEMENT}")


def _verb(parsed: Parsed, statement: Node) -> str:
    """Return the words that name a statement: its keywords up to the first other token, two at most."""
    from pglast.parser import scan

    words: list[str] = []
    start = _start(parsed, statement)
    for token in scan(parsed.raw[start:].decode()):
        if token.name in ("SQL_COMMENT", "C_COMMENT"):
            continue
        if token.kind == "NO_KEYWORD" or len(words) == 2:  # noqa: PLR2004 - "ALTER SYSTEM" says enough
            break
        words.append(token.name.removesuffix("_P").removesuffix("_LA"))
    return " ".join(words) or "this statement"


def _setting_fault(name: str, catalog: FunctionCatalog) -> _Fault | None:
    folded = name.lower()
    if folded in REFUSED_SETTINGS:
        reason = REFUSED_SETTINGS[folded]
        return _Fault("setting", f"setting {folded} is not shown: {reason}", "ask the operator of the server")
    if folded in catalog.settings or folded in MORE_SETTINGS:
        return None
    shown = name[:_SHOWN]
    if "." in folded:
        return _Fault(
            "setting",
            f"setting {shown} belongs to an extension or application and is not shown",
            "settings with a dot may hold secrets; only PostgreSQL's own settings are shown",
        )
    near = difflib.get_close_matches(folded, list(catalog.settings), 3)
    hint = f"did you mean {' or '.join(near)}?" if near else "pg_settings lists the settings"
    return _Fault("setting", f"setting {shown} is not known", hint)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rules:
    """What one profile lets a query call and read: names in, a fault or None out."""

    catalog: FunctionCatalog
    allow: frozenset[str]
    schemas: frozenset[str]
    path: frozenset[str]

    def function_fault(self, schema: str | None, name: str) -> _Fault | None:
        entries = self.catalog.lookup(schema, name, search_path=self.path)
        for entry in entries:
            fault = self._entry_fault(entry, shadows=schema is None and len(entries) > 1)
            if fault is not None:
                return fault
        if entries or name in self.allow or f"{schema}.{name}" in self.allow:
            return None
        return self._unknown("function", schema, name, self.catalog.functions)

    def attribute_fault(self, name: str, *, scalar: bool) -> _Fault | None:
        """Judge `value.name`, which calls a function of that name if the value has no such column.

        Own functions count only if they take a row or the value may be a scalar: a column that happens to have the
        name of somebody's function must stay readable.
        """
        for entry in self.catalog.lookup(None, name, search_path=self.path):
            reaches = scalar or entry.schema == "pg_catalog" or entry.extension is not None or entry.row_argument
            if entry.one_argument and reaches:
                fault = self._entry_fault(entry, shadows=False)
                if fault is None and name == SETTING_FUNCTION and not self._is_allowed(entry.schema, name):
                    fault = _Fault("setting", f"{name} needs a literal name", f"write {name}('name') or SHOW name")
                if fault is not None:
                    return fault
        return None

    def shadow_fault(self, name: str) -> _Fault | None:
        """Judge only what users have created under a name that is syntax in newer servers."""
        for entry in self.catalog.lookup(None, name, search_path=self.path):
            if entry.schema != "pg_catalog":
                fault = self._entry_fault(entry, shadows=False)
                if fault is not None:
                    return fault
        return None

    def operator_fault(self, schema: str | None, name: str) -> _Fault | None:
        entries = self.catalog.lookup_operator(schema, name, search_path=self.path)
        for entry in entries:
            calls = entry.calls or ""
            if calls in self.allow or calls.rpartition(".")[2] in self.allow:
                continue
            why = _why_harmful(entry)
            if why is not None:
                return _Fault(
                    "operator",
                    f"operator {entry.schema}.{name} calls {calls}, which is {why} and not on the allowed list of this "
                    "profile",
                    f"write OPERATOR(pg_catalog.{name}) for PostgreSQL's own, or {ASK_THE_OPERATOR}",
                )
        if entries:
            return None
        return self._unknown("operator", schema, name, self.catalog.operators)

    def relation_fault(self, schema: str | None, name: str, *, is_cte: bool) -> _Fault | None:
        # A CTE of the same name would be harmless, but nobody names one pg_authid to read something else.
        if name in DENIED_RELATIONS and (schema is None or schema in SYSTEM_SCHEMAS):
            holds, hint = DENIED_RELATIONS[name]
            return _Fault("relation", f"relation {name} is not readable here: it holds {holds}", hint)
        if schema in DENIED_SCHEMAS:
            return _Fault("relation", f"schema {schema} holds {DENIED_SCHEMAS[schema]}", "read the table itself")
        if not self.schemas or is_cte or schema in SYSTEM_SCHEMAS or schema in self.schemas:
            return None
        hint = f"use schema.table with one of: {', '.join(sorted(self.schemas))}"
        if schema is not None:
            message = f"schema {schema[:_SHOWN]} is not among the schemas of this profile"
            return _Fault("schema", message, hint, Forbidden)
        if name in self.catalog.relations or self.path.difference(SYSTEM_SCHEMAS) <= self.schemas:
            return None
        message = f"relation {name[:_SHOWN]} has no schema, and the search path leaves the schemas of this profile"
        return _Fault("schema", message, hint, Forbidden)

    def _is_allowed(self, schema: str, name: str) -> bool:
        return name in self.allow or f"{schema}.{name}" in self.allow

    def _entry_fault(self, entry: FunctionEntry, *, shadows: bool) -> _Fault | None:
        name = entry.name
        if entry.kind == "t" or self._is_allowed(entry.schema, name):
            return None
        built_in = entry.schema == "pg_catalog"
        denied = DENIED_ANYWHERE.get(name) or (DENIED_BUILTINS.get(name) if built_in else None)
        if denied is not None:
            return _Fault("function-denied", f"function {name} is not allowed: {denied[0]}", denied[1], name=name)
        if built_in and name in VOLATILE_ALLOWED and not entry.security_definer and entry.extension is None:
            return None
        why = _why_harmful(entry)
        if why is None or (entry.extension or "", name) in EXTENSION_ALLOWED:
            return None
        hint = next((hint for start, hint in FUNCTION_HINTS if name.startswith(start)), ASK_THE_OPERATOR)
        if shadows and not built_in:
            hint = f"write pg_catalog.{name} if you mean PostgreSQL's own, or {hint}"
        full = name if built_in else f"{entry.schema}.{name}"
        message = f"function {full} is {why} and not on the allowed list of this profile"
        return _Fault("function-volatile" if why == "volatile" else "function-definer", message, hint, name=full)

    def _unknown(self, what: str, schema: str | None, name: str, known: Collection[str]) -> _Fault:
        full = (f"{schema}.{name}" if schema else name)[:_SHOWN]
        elsewhere = self.catalog.functions.get(name, ()) if what == "function" else ()
        near = [f"{entry.schema}.{name}" for entry in elsewhere if entry.schema != schema]
        near = near or difflib.get_close_matches(name, list(known), 3, 0.75)
        hint = f"did you mean {' or '.join(near)}?" if near else ASK_THE_OPERATOR
        rule = f"unknown-{what}"
        if self.catalog.complete:
            return _Fault(rule, f"{what} {full} does not exist", hint, BadQuery, sqlstate="42883", name=full)
        return _Fault(rule, f"{what} {full} is not known, so nobody can tell what it does", hint, name=full)


def _why_harmful(entry: FunctionEntry) -> str | None:
    if entry.volatility not in ("i", "s"):
        return "volatile"
    return "SECURITY DEFINER" if entry.security_definer else None


class _Walk:
    """One pass over every dict and list of a query's tree; collects faults and what the caller wants to know."""

    __slots__ = ("_aliases", "_attributes", "_faults", "_memo", "_parsed", "_rules", "param_count", "reads_star",
                 "relations")  # fmt: skip

    def __init__(self, parsed: Parsed, rules: _Rules) -> None:
        self._parsed = parsed
        self._rules = rules
        self._faults: list[tuple[int, _Fault]] = []
        self._memo: dict[tuple[str, str | None, str], _Fault | None] = {}
        self._attributes: list[tuple[str | None, str, int]] = []
        self._aliases: set[str] = set()
        self.relations: dict[tuple[str | None, str], None] = {}
        self.reads_star = False
        self.param_count = 0

    def run(self, query: Node) -> None:
        """Walk without recursion, and raise the fault that stands first in the text."""
        stack: list[tuple[Any, Scope]] = [(query, frozenset())]
        left = MOST_NODES
        while stack:
            value, scope = stack.pop()
            left -= 1
            if type(value) is list:
                # Names are a third of all nodes.
                stack.extend([(item, scope) for item in value if type(item) is not dict or "String" not in item])
                continue
            if "withClause" in value:
                scope = self._enter_with(value["withClause"], scope, stack)
            for key, child in value.items():
                kind = type(child)
                if key not in _KNOWN:
                    self._refuse(key, child)
                elif kind is dict or kind is list:
                    check = _CHECKS.get(key)
                    if check is not None:
                        check(self, child, scope)
                    if key not in _ENDS:
                        stack.append((child, scope))
            if left < 0:
                raise _too_deep()
        self._judge_attributes()
        if self._faults:
            location, fault = min(self._faults, key=lambda found: found[0])
            raise fault.at(self._parsed.position(location))

    def explain_options(self, node: Node) -> bool:
        """Check the options of an EXPLAIN; return whether it runs its query."""
        analyze = False
        for option in node.get("options", ()):
            element = option["DefElem"]
            name = element.get("defname", "")
            argument = element.get("arg") or {"Boolean": {"boolval": True}}
            if name not in EXPLAIN_OPTIONS or not argument.keys() <= LEAVES:
                known = f"known are: {', '.join(sorted(EXPLAIN_OPTIONS))}"
                fault = _Fault("explain-option", f"EXPLAIN option {name[:_SHOWN]} is not known", known)
                raise fault.at(self._parsed.position(element.get("location", 0)))
            if name == "analyze":
                ((_, value),) = argument.items()
                word = str(next(iter(value.values()), "0")).lower()
                analyze = word not in ("false", "off", "0")
        return analyze

    def _enter_with(self, clause: Node, outer: Scope, stack: list[tuple[Node, Scope]]) -> Scope:
        """Queue the CTEs, each with the names that it sees, and return what the query itself sees."""
        ctes = clause.get("ctes", [])
        names = [str(cte["CommonTableExpr"].get("ctename", "")) for cte in ctes]
        inner = outer | frozenset(names)
        for index, cte in enumerate(ctes):
            stack.append((cte, inner if clause.get("recursive") else outer | frozenset(names[:index])))
        stack.append(({**clause, "ctes": []}, outer))
        return inner

    def _fault(self, location: int, fault: _Fault | None) -> None:
        if fault is not None:
            self._faults.append((location, fault))

    def _refuse(self, key: str, child: Any) -> None:
        location = _location(child)
        if key in REFUSED_FIELDS:
            rule, message, hint = REFUSED_FIELDS[key]
            fault = _Fault(rule, message, hint)
        elif key in STATEMENTS:
            verb = key.removesuffix("Stmt").upper()
            fault = _Fault("data-modifying-cte", f"{verb} inside WITH writes", STATEMENTS[key][1])
        else:
            fault = _Fault("construct", f"{key} is not a construct that is known to only read", ONE_STATEMENT)
        self._faults.append((location, fault))

    def function(self, node: Node, _: Scope) -> None:
        names = _words(node["funcname"])
        schema, name = (names[-2] if len(names) > 1 else None), names[-1]
        location = node.get("location", 0)
        key = ("f", schema, name)
        if key not in self._memo:
            self._memo[key] = self._rules.function_fault(schema, name)
        self._fault(location, self._memo[key])
        if name == SETTING_FUNCTION and not {name, f"pg_catalog.{name}"} & self._rules.allow:
            setting = _literal(node.get("args"))
            if setting is None:
                hint = f"write {name}('name') or SHOW name"
                self._fault(location, _Fault("setting", f"{name} needs a literal name", hint))
            else:
                self._fault(location, _setting_fault(setting, self._rules.catalog))

    def operator(self, schema: str | None, name: str, location: int) -> None:
        key = ("o", schema, name)
        if key not in self._memo:
            self._memo[key] = self._rules.operator_fault(schema, name)
        self._fault(location, self._memo[key])

    def expression(self, node: Node, _: Scope) -> None:
        location = node.get("location", 0)
        implied = KIND_OPERATORS.get(node["kind"])
        if implied is not None:
            for name in implied:
                self.operator(None, name, location)
        else:
            self.operators(node["name"], location)

    def operators(self, names: list[Node], location: int) -> None:
        words = _words(names)
        self.operator(words[-2] if len(words) > 1 else None, words[-1], location)

    def case(self, node: Node, _: Scope) -> None:
        if "arg" in node:
            self.operator(None, "=", node.get("location", 0))

    def join(self, node: Node, _: Scope) -> None:
        if "usingClause" in node or node.get("isNatural"):
            self.operator(None, "=", _location(node))

    def sublink(self, node: Node, _: Scope) -> None:
        if "operName" in node:
            self.operators(node["operName"], node.get("location", 0))
        elif "testexpr" in node:
            self.operator(None, "=", node.get("location", 0))

    def sort(self, node: Node, _: Scope) -> None:
        if "useOp" in node:
            self.operators(node["useOp"], node.get("location", 0))

    def relation(self, node: Node, scope: Scope) -> None:
        schema, name = node.get("schemaname"), str(node.get("relname", ""))
        is_cte = schema is None and name in scope
        if not is_cte:
            self.relations[schema, name] = None
        self._fault(node.get("location", 0), self._rules.relation_fault(schema, name, is_cte=is_cte))

    def column(self, node: Node, _: Scope) -> None:
        *qualifiers, last = node["fields"]
        if "A_Star" in last:
            self.reads_star = True
        elif qualifiers:
            qualifier = qualifiers[-1]["String"]["sval"]
            self._attributes.append((qualifier, last["String"]["sval"], node.get("location", 0)))

    def indirection(self, node: Node, _: Scope) -> None:
        for name in _words(node["indirection"]):
            self._attributes.append((None, name, _location(node)))

    def range_function(self, node: Node, _: Scope) -> None:
        """Remember what a function in FROM is called: `g.name` may then apply a function to a scalar."""
        self._aliases.add(str(node.get("alias", {}).get("aliasname", "")))
        for call in _dicts(node.get("functions", [])):
            for item in _dicts(call.get("List", {}).get("items", [])):
                if "FuncCall" in item:
                    self._aliases.add(_words(item["FuncCall"]["funcname"])[-1])

    def _judge_attributes(self) -> None:
        functions = self._rules.catalog.functions
        for qualifier, name, location in self._attributes:
            if name not in functions:  # nearly all columns
                continue
            scalar = qualifier is None or qualifier in self._aliases
            key = ("scalar" if scalar else "row", None, name)
            if key not in self._memo:
                self._memo[key] = self._rules.attribute_fault(name, scalar=scalar)
            self._fault(location, self._memo[key])

    def parameter(self, node: Node, _: Scope) -> None:
        self.param_count = max(self.param_count, node.get("number", 0))

    def json_syntax(self, name: str, node: Node) -> None:
        self._fault(_location(node), self._rules.shadow_fault(name))

    def star(self, _: Node, __: Scope) -> None:
        self.reads_star = True


_Check = Callable[[_Walk, Node, Scope], None]


def _json_check(name: str) -> _Check:
    def check(walk: _Walk, node: Node, _: Scope) -> None:
        walk.json_syntax(NODE_FUNCTIONS[node["op"] if name == "JsonFuncExpr" else name], node)

    return check


_CHECKS: dict[str, _Check] = {
    "A_Star": _Walk.star,
    "A_Expr": _Walk.expression,
    "A_Indirection": _Walk.indirection,
    "CaseExpr": _Walk.case,
    "ColumnRef": _Walk.column,
    "FuncCall": _Walk.function,
    "JoinExpr": _Walk.join,
    "ParamRef": _Walk.parameter,
    "RangeFunction": _Walk.range_function,
    "RangeVar": _Walk.relation,
    "SortBy": _Walk.sort,
    "SubLink": _Walk.sublink,
    **{name: _json_check(name) for name in (*NODE_FUNCTIONS, "JsonFuncExpr") if name.startswith("Json")},
}


def _dicts(items: Sequence[Any]) -> Iterator[Node]:
    """Return the nodes of a list, those in lists within it included."""
    for item in items:
        if type(item) is dict:
            yield item
        elif type(item) is list:
            yield from _dicts(item)


def _words(names: Sequence[Node]) -> list[str]:
    return [str(name["String"].get("sval", "")) for name in names if "String" in name]


def _literal(arguments: Sequence[Node] | None) -> str | None:
    """Return the first argument if it is a string constant, cast to text or not."""
    first = arguments[0] if arguments else {}
    cast = first.get("TypeCast")
    if cast is not None and _words(cast["typeName"].get("names", []))[-1:] == ["text"]:
        first = cast["arg"]
    value = first.get("A_Const", {}).get("sval")
    return None if value is None else str(value.get("sval", ""))


def _location(value: Any) -> int:
    """Return the first place in the text that a part of the tree names; beyond all places if none does."""
    found = 1 << 31
    todo = [value]
    while todo:
        item = todo.pop()
        if type(item) is dict:
            location = item.get("location", -1)
            if 0 <= location < found:
                found = location
            todo.extend(item.values())
        elif type(item) is list:
            todo.extend(item)
    return found
