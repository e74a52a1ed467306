"""docs/values.md has one rule for each family of types that the code knows, and for no other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from gateway.page_sql import cell_sql
from gateway.pg_types import BUILTIN_TYPES, Family, TypeInfo

PAGE = Path(__file__).parents[2] / "docs" / "values.md"


def documented() -> dict[str, str]:
    """Return the types of the page's table by family."""
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| .+ \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return dict(rows)


def test_the_families_of_the_page_are_those_of_the_code_in_their_order() -> None:
    assert list(documented()) == list(get_args(Family))


def test_every_type_that_the_page_names_is_of_the_family_that_it_names() -> None:
    families = {kind.name: kind.family for kind in BUILTIN_TYPES.values()}
    for family, types in documented().items():
        if not family.startswith("array"):
            for name in re.findall(r"`(\"?\w+\"?)`", types):
                assert families[name.strip('"')] == family, name


@pytest.mark.parametrize("family", [family for family in get_args(Family) if family not in ("output", "text")])
def test_the_page_names_every_type_of_a_family(family: Family) -> None:
    if family.startswith("array"):
        pytest.skip("arrays are named by their elements")
    names = {kind.name for kind in BUILTIN_TYPES.values() if kind.family == family}
    assert {name.strip('"') for name in re.findall(r"`(\"?\w+\"?)`", documented()[family])} == names


@pytest.mark.parametrize("family", get_args(Family))
def test_every_family_has_its_sql(family: Family) -> None:
    sql = cell_sql("x", TypeInfo(0, "x", family), 8192)
    assert sql.count("(") == sql.count(")")
    assert "x" in sql
