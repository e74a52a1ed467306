"""Is this text one statement that only reads? Pure: text and what is known of the database in, a verdict out.

PostgreSQL's own parser reads the text (`sql_text.py`), every node of its tree must be on a list (`sql_rules.py`), and
every name is judged by what the database says about it (`sql_verdicts.py`, `sql_functions.py`). What a view, cast,
domain, policy or a wrongly labelled function does cannot be seen in the text: the transaction, the session and the
role stop that. Past 400 lines because the walk is one: each kind of node has its check beside the others, and `judge`
tells in its docstring what each of its bounds is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gateway.errors import TooLarge
from gateway.sql_functions import FunctionCatalog
from gateway.sql_rules import (
    CALM_OVERLOADS,
    EXPLAIN_OPTIONS,
    FIELDS,
    KIND_OPERATORS,
    LEAVES,
    NODE_FUNCTIONS,
    NODES,
    OTHER_STATEMENT,
    REFUSED_FIELDS,
    SETTING_FUNCTION,
    STATEMENTS,
)
from gateway.sql_text import BLANKS, ONE_STATEMENT, Node, Parsed, parse
from gateway.sql_verdicts import Fault, Rules, setting_fault

__all__ = ["Judged", "judge", "parse"]

MOST_NODES = 100_000  # twice what a list of 50,000 numbers needs
_NOWHERE = 1 << 31  # parts of the tree that keep no location, such as FOR UPDATE
# Nodes start with a capital and fields do not, so that one set holds both.
_KNOWN = NODES | FIELDS
# A WITH is queued by `_enter_with`, each CTE with the names that it sees; names are read by the checks.
_ENDS = LEAVES | {"withClause", "fields", "funcname"}

# The CTEs that a part of the query sees: those around it, then its own WITH's names with their places, and how many of
# them it sees. A set per CTE would take gigabytes for thousands of them.
Scope = tuple["Scope", dict[str, int], int] | None


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
        raise Fault(
            "one-statement",
            f"the text holds {len(parsed.statements)} statements and one is allowed per call",
            "send them one by one; a semicolon at the end is fine",
        ).at(parsed.position(parsed.statements[1].get("stmt_location", 0)))
    (statement,) = parsed.statements
    start = statement.get("stmt_location", 0)  # its first token: what stands before is not part of it
    end = start + statement["stmt_len"] if "stmt_len" in statement else len(parsed.raw)
    text = parsed.raw[start:end].decode().rstrip(BLANKS)
    offset = parsed.position(start) - 1
    ((kind, node),) = statement["stmt"].items()
    if kind == "VariableShowStmt":
        name = str(node.get("name", ""))
        fault = setting_fault(name, catalog)
        if fault is not None:
            raise fault.at(offset + 1)
        return Judged(kind="show", sql=text, offset=offset)
    walk = _Walk(
        parsed,
        Rules(
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


def _statement_fault(parsed: Parsed, statement: Node, query: Node, *, explain: bool) -> Fault:
    (kind,) = query
    rule, hint = STATEMENTS.get(kind, OTHER_STATEMENT)
    verb = _verb(parsed, statement) if not explain else ""
    if explain:
        return Fault(rule, "EXPLAIN is allowed for a SELECT only, because its ANALYZE runs the statement", hint)
    return Fault(rule, f"{verb} is not a read; only reads run here", f"{hint}. Or {ONE_STATEMENT}")


def _verb(parsed: Parsed, statement: Node) -> str:
    """Return the words that name a statement: its keywords up to the first other token, two at most."""
    from pglast.parser import scan

    words: list[str] = []
    for token in scan(parsed.raw[statement.get("stmt_location", 0) :].decode()):
        if token.name in ("SQL_COMMENT", "C_COMMENT"):
            continue
        if token.kind == "NO_KEYWORD" or len(words) == 2:  # noqa: PLR2004 - "ALTER SYSTEM" says enough
            break
        words.append(token.name.removesuffix("_P").removesuffix("_LA"))
    return " ".join(words) or "this statement"


class _Walk:
    """One pass over every dict and list of a query's tree; collects faults and what the caller wants to know."""

    __slots__ = (
        "_attributes",
        "_faults",
        "_function_aliases",
        "_memo",
        "_parsed",
        "_row_aliases",
        "_rules",
        "param_count",
        "reads_star",
        "relations",
    )  # fmt: skip

    def __init__(self, parsed: Parsed, rules: Rules) -> None:
        self._parsed = parsed
        self._rules = rules
        self._faults: list[tuple[int, Fault]] = []
        self._memo: dict[tuple[str, str | None, str], Fault | None] = {}
        self._attributes: list[tuple[str, str, int, bool]] = []
        self._function_aliases: set[str] = set()
        self._row_aliases: dict[str, set[str]] = {}
        self.relations: dict[tuple[str | None, str], None] = {}
        self.reads_star = False
        self.param_count = 0

    def run(self, query: Node) -> None:
        """Walk without recursion, and raise the fault that stands first in the text."""
        stack: list[tuple[Any, Scope]] = [(query, None)]
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
                raise TooLarge(
                    f"the query has more than {MOST_NODES} parts",
                    hint="pass long lists as one array parameter: WHERE id = ANY($1)",
                    details={"rule": "parts"},
                )
        self._judge_attributes()
        if self._faults:
            location, fault = min(self._faults, key=lambda found: found[0])
            raise fault.at(self._parsed.position(location) if location < _NOWHERE else None)

    def explain_options(self, node: Node) -> bool:
        """Check the options of an EXPLAIN; return whether it runs its query."""
        analyze = False
        for option in node.get("options", ()):
            element = option["DefElem"]
            name = element.get("defname", "")
            argument = element.get("arg") or {"Boolean": {"boolval": True}}
            if name not in EXPLAIN_OPTIONS or not argument.keys() <= LEAVES:
                known = f"known are: {', '.join(sorted(EXPLAIN_OPTIONS))}"
                fault = Fault("explain-option", f"EXPLAIN option {name[:80]} is not known", known)
                raise fault.at(self._parsed.position(element.get("location", 0)))
            if name == "analyze":
                ((_, value),) = argument.items()
                word = str(next(iter(value.values()), "0")).lower()
                analyze = word not in ("false", "off", "0")
        return analyze

    def _enter_with(self, clause: Node, outer: Scope, stack: list[tuple[Node, Scope]]) -> Scope:
        """Queue the CTEs, each with the names that it sees, and return what the query itself sees."""
        ctes = clause.get("ctes", [])
        places: dict[str, int] = {}
        for index, cte in enumerate(ctes):
            places.setdefault(cte["CommonTableExpr"]["ctename"], index)
        inner = (outer, places, len(ctes))
        recursive = clause.get("recursive", False)
        stack.extend([(cte, inner if recursive else (outer, places, index)) for index, cte in enumerate(ctes)])
        stack.append(({**clause, "ctes": []}, outer))
        return inner

    def _fault(self, location: int, fault: Fault | None) -> None:
        if fault is not None:
            self._faults.append((location, fault))

    def _refuse(self, key: str, child: Any) -> None:
        location = _location(child)
        if key in REFUSED_FIELDS:
            rule, message, hint = REFUSED_FIELDS[key]
            fault = Fault(rule, message, hint)
        elif key in STATEMENTS:
            verb = key.removesuffix("Stmt").upper()
            fault = Fault("data-modifying-cte", f"{verb} inside WITH writes", STATEMENTS[key][1])
        else:
            fault = Fault("construct", f"{key} is not a construct that is known to only read", ONE_STATEMENT)
        self._faults.append((location, fault))

    def function(self, node: Node, _: Scope) -> None:
        names = _words(node["funcname"])
        schema, name = (names[-2] if len(names) > 1 else None), names[-1]
        location = node.get("location", 0)
        is_calm = CALM_OVERLOADS.get(name) == len(node.get("args", ())) and not node.get("func_variadic")
        if is_calm and schema in (None, "pg_catalog"):
            # What somebody has created under that name is judged as ever.
            self._fault(location, self._rules.shadow_fault(name))
            return
        key = ("f", schema, name)
        if key not in self._memo:
            self._memo[key] = self._rules.function_fault(schema, name)
        self._fault(location, self._memo[key])
        if name == SETTING_FUNCTION and not {name, f"pg_catalog.{name}"} & self._rules.allow:
            setting = _literal(node.get("args"))
            if setting is None:
                hint = f"write {name}('name') or SHOW name"
                self._fault(location, Fault("setting", f"{name} needs a literal name", hint))
            else:
                self._fault(location, setting_fault(setting, self._rules.catalog))

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
        is_cte = schema is None and _sees(scope, name)
        if not is_cte:
            self.relations[schema, name] = None
            alias = node["alias"]["aliasname"] if "alias" in node else name
            self._row_aliases.setdefault(alias, set()).add(name)
        self._fault(node.get("location", 0), self._rules.relation_fault(schema, name, is_cte=is_cte))

    def column(self, node: Node, _: Scope) -> None:
        *qualifiers, last = node["fields"]
        if "A_Star" in last:
            self.reads_star = True
        elif qualifiers:
            qualifier = qualifiers[-1]["String"]["sval"]
            self._attributes.append((qualifier, last["String"]["sval"], node.get("location", 0), False))

    def indirection(self, node: Node, _: Scope) -> None:
        location = _location(node["arg"])
        for name in _words(node["indirection"]):
            self._attributes.append(("", name, location, True))

    def range_function(self, node: Node, _: Scope) -> None:
        """Remember what a function in FROM is called: `g.name` may then apply a function to a scalar."""
        self._function_aliases.add(str(node.get("alias", {}).get("aliasname", "")))
        for call in node.get("functions", []):
            for item in call["List"]["items"]:
                if "FuncCall" in item:
                    self._function_aliases.add(_words(item["FuncCall"]["funcname"])[-1])
                elif "TypeCast" in item:
                    self._function_aliases.add(_words(item["TypeCast"]["typeName"]["names"])[-1])

    def _judge_attributes(self) -> None:
        """Judge `a.b` once it is known what `a` is: a row of a relation, what a function returned, or any value."""
        functions = self._rules.catalog.functions
        for qualifier, name, location, parenthesised in self._attributes:
            if name not in functions:  # nearly all columns
                continue
            rows = self._row_aliases.get(qualifier, ())
            scalar = parenthesised or qualifier in self._function_aliases
            key = ("scalar" if scalar else "row", qualifier, name)
            if key not in self._memo:
                self._memo[key] = self._rules.attribute_fault(name, scalar=scalar, relations=rows)
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


def _sees(scope: Scope, name: str) -> bool:
    while scope is not None:
        scope, places, seen = scope
        if places.get(name, seen) < seen:
            return True
    return False


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
    """Return the first place in the text that a part of the tree names, or _NOWHERE; looks at a thousand values."""
    found = _NOWHERE
    todo = [value]
    for _ in range(1000):
        if not todo:
            break
        item = todo.pop()
        if type(item) is dict:
            location = item.get("location", -1)
            if 0 <= location < found:
                found = location
            todo.extend(item.values())
        elif type(item) is list:
            todo.extend(item)
    return found
