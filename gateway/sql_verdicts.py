"""What a name in a query means: which function, operator, relation or setting a profile may use.

Names and what is known of the database in, a `Fault` or None out. Knows nothing of syntax trees.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection
from dataclasses import dataclass

from gateway.errors import BadQuery, Forbidden, GatewayError, UnsafeSql
from gateway.sql_functions import FunctionCatalog, FunctionEntry
from gateway.sql_rules import (
    ASK_THE_OPERATOR,
    DENIED_ANYWHERE,
    DENIED_BUILTINS,
    DENIED_RELATIONS,
    DENIED_SCHEMAS,
    EXTENSION_ALLOWED,
    FUNCTION_HINTS,
    MORE_SETTINGS,
    REFUSED_SETTINGS,
    SETTING_FUNCTION,
    SYSTEM_SCHEMAS,
    VOLATILE_ALLOWED,
)

_SHOWN = 80  # characters of a name that a message repeats


@dataclass(frozen=True, slots=True)
class Fault:
    """Why something is refused: the rule's id, a sentence, and what to do instead.

    The hint may be a question that takes milliseconds; it is asked only of the one fault that is raised.
    """

    rule: str
    message: str
    hint: str | Callable[[], str]
    error: type[GatewayError] = UnsafeSql
    sqlstate: str | None = None
    name: str | None = None

    def at(self, position: int | None) -> GatewayError:
        """Return the error to raise, with its place in the text."""
        hint = self.hint if isinstance(self.hint, str) else self.hint()
        details = {"rule": self.rule} | ({"name": self.name} if self.name else {})
        return self.error(self.message, hint=hint, position=position, sqlstate=self.sqlstate, details=details)


def setting_fault(name: str, catalog: FunctionCatalog) -> Fault | None:
    """Judge SHOW and current_setting."""
    folded = name.lower()
    if folded in REFUSED_SETTINGS:
        reason = REFUSED_SETTINGS[folded]
        return Fault("setting", f"setting {folded} is not shown: {reason}", "ask the operator of the server")
    if folded in catalog.settings or folded in MORE_SETTINGS:
        return None
    shown = name[:_SHOWN]
    if "." in folded:
        return Fault(
            "setting",
            f"setting {shown} belongs to an extension or application and is not shown",
            "settings with a dot may hold secrets; only PostgreSQL's own settings are shown",
        )
    near = difflib.get_close_matches(folded, list(catalog.settings), 3)
    hint = f"did you mean {' or '.join(near)}?" if near else "pg_settings lists the settings"
    return Fault("setting", f"setting {shown} is not known", hint)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What one profile lets a query call and read: names in, a fault or None out."""

    catalog: FunctionCatalog
    allow: frozenset[str]
    schemas: frozenset[str]
    path: frozenset[str]

    def function_fault(self, schema: str | None, name: str) -> Fault | None:
        """Judge a call. Without a schema all overloads that are visible count: any may fit the arguments best."""
        if schema is None and name in self.catalog.calm and name not in DENIED_BUILTINS and name not in DENIED_ANYWHERE:
            return None
        entries = self.catalog.lookup(schema, name, search_path=self.path)
        for entry in entries:
            fault = self._entry_fault(entry, shadows=schema is None and len(entries) > 1)
            if fault is not None:
                return fault
        if entries or name in self.allow or f"{schema}.{name}" in self.allow:
            return None
        return self._unknown("function", schema, name, self.catalog.functions)

    def attribute_fault(self, name: str, *, scalar: bool, relations: Collection[str]) -> Fault | None:
        """Judge `value.name`, which calls a function of that name if the value has no such column.

        Users' functions count only if they fit: `scalar` says that the value may be of any type, else it is a row of
        one of the relations (none: of a sub-select). A column that has the name of somebody's function stays readable.
        """
        for entry in self.catalog.lookup(None, name, search_path=self.path):
            reaches = scalar or entry.schema == "pg_catalog" or entry.extension is not None
            reaches = reaches or "*" in entry.row_of or any(row in relations for row in entry.row_of)
            if entry.one_argument and reaches:
                fault = self._entry_fault(entry, shadows=False)
                if fault is None and name == SETTING_FUNCTION and not self._is_allowed(entry.schema, name):
                    fault = Fault("setting", f"{name} needs a literal name", f"write {name}('name') or SHOW name")
                if fault is not None:
                    return fault
        return None

    def shadow_fault(self, name: str) -> Fault | None:
        """Judge only what users have created under a name that is syntax in newer servers."""
        for entry in self.catalog.lookup(None, name, search_path=self.path):
            if entry.schema != "pg_catalog":
                fault = self._entry_fault(entry, shadows=False)
                if fault is not None:
                    return fault
        return None

    def operator_fault(self, schema: str | None, name: str) -> Fault | None:
        """Judge an operator by the function behind it."""
        if schema is None and name in self.catalog.calm_operators:
            return None
        entries = self.catalog.lookup_operator(schema, name, search_path=self.path)
        for entry in entries:
            calls = entry.calls or ""
            if calls in self.allow or calls.rpartition(".")[2] in self.allow:
                continue
            why = _why_harmful(entry)
            if why is not None:
                return Fault(
                    "operator",
                    f"operator {entry.schema}.{name} calls {calls}, which is {why} and not on the allowed list of this "
                    "profile",
                    f"write OPERATOR(pg_catalog.{name}) for PostgreSQL's own, or {ASK_THE_OPERATOR}",
                )
        if entries:
            return None
        return self._unknown("operator", schema, name, self.catalog.operators)

    def relation_fault(self, schema: str | None, name: str, *, is_cte: bool) -> Fault | None:
        """Judge a name in FROM: secrets, then the schemas of the profile."""
        # A CTE of the same name would be harmless, but nobody names one pg_authid to read something else.
        if name in DENIED_RELATIONS and (schema is None or schema in SYSTEM_SCHEMAS):
            holds, hint = DENIED_RELATIONS[name]
            return Fault("relation", f"relation {name} is not readable here: it holds {holds}", hint)
        if schema in DENIED_SCHEMAS:
            return Fault("relation", f"schema {schema} holds {DENIED_SCHEMAS[schema]}", "read the table itself")
        if not self.schemas or is_cte or schema in SYSTEM_SCHEMAS or schema in self.schemas:
            return None
        hint = f"use schema.table with one of: {', '.join(sorted(self.schemas))}"
        if schema is not None:
            message = f"schema {schema[:_SHOWN]} is not among the schemas of this profile"
            return Fault("schema", message, hint, Forbidden)
        if name in self.catalog.relations or self.path.difference(SYSTEM_SCHEMAS) <= self.schemas:
            return None
        message = f"relation {name[:_SHOWN]} has no schema, and the search path leaves the schemas of this profile"
        return Fault("schema", message, hint, Forbidden)

    def _is_allowed(self, schema: str, name: str) -> bool:
        return name in self.allow or f"{schema}.{name}" in self.allow

    def _entry_fault(self, entry: FunctionEntry, *, shadows: bool) -> Fault | None:
        name = entry.name
        if entry.kind == "t" or self._is_allowed(entry.schema, name):
            return None
        built_in = entry.schema == "pg_catalog"
        denied = DENIED_ANYWHERE.get(name) or (DENIED_BUILTINS.get(name) if built_in else None)
        if denied is not None:
            return Fault("function-denied", f"function {name} is not allowed: {denied[0]}", denied[1], name=name)
        if built_in and name in VOLATILE_ALLOWED and not entry.security_definer and entry.extension is None:
            return None
        why = _why_harmful(entry)
        if why is None or (entry.extension or "", name) in EXTENSION_ALLOWED:
            return None
        hint = _function_hint(name)
        if shadows and not built_in:
            hint = f"write pg_catalog.{name} if you mean PostgreSQL's own, or {hint}"
        full = name if built_in else f"{entry.schema}.{name}"
        message = f"function {full} is {why} and not on the allowed list of this profile"
        return Fault("function-volatile" if why == "volatile" else "function-definer", message, hint, name=full)

    def _unknown(self, what: str, schema: str | None, name: str, known: Collection[str]) -> Fault:
        full = (f"{schema}.{name}" if schema else name)[:_SHOWN]
        rule = f"unknown-{what}"

        def hint() -> str:
            elsewhere = self.catalog.functions.get(name, ()) if what == "function" else ()
            near = [f"{entry.schema}.{name}" for entry in elsewhere if entry.schema != schema]
            near = near or difflib.get_close_matches(name, list(known), 3, 0.75)
            return f"did you mean {' or '.join(near)}?" if near else _function_hint(name)

        if self.catalog.complete:
            return Fault(rule, f"{what} {full} does not exist", hint, BadQuery, sqlstate="42883", name=full)
        return Fault(rule, f"{what} {full} is not known, so nobody can tell what it does", hint, name=full)


def _function_hint(name: str) -> str:
    return next((hint for start, hint in FUNCTION_HINTS if name.startswith(start)), ASK_THE_OPERATOR)


def _why_harmful(entry: FunctionEntry) -> str | None:
    if entry.volatility not in ("i", "s"):
        return "volatile"
    return "SECURITY DEFINER" if entry.security_definer else None
