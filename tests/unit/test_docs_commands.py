"""docs/commands.md names the commands, arguments and options that there are, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from gateway.cli import app

PAGE = (Path(__file__).parents[2] / "docs" / "commands.md").read_text()
ROOT: Any = get_command(app)
COMMANDS: dict[str, Any] = {"pg-gateway": ROOT, **{f"pg-gateway {name}": it for name, it in ROOT.commands.items()}}


def sections() -> dict[str, str]:
    """Return the text below each heading that is a command."""
    parts = re.split(r"^## `(pg-gateway[^`]*)`\n", PAGE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def documented(section: str) -> dict[str, set[str]]:
    """Return the names of the rows of a section's tables of options, by the first of each, and what they take."""
    rows = re.findall(r"^\| (`[^|]*`) \| .+ \|$", section, re.MULTILINE)
    return {row: {code.split()[0] for code in re.findall(r"`([^`]+)`", row)} for row in rows}


def known(command: Any) -> list[set[str]]:
    """Return the names of each parameter that a user can give; of an argument, the word that stands for it."""
    whole = ROOT.make_context("pg-gateway", [], resilient_parsing=True)
    context = whole if command is ROOT else command.make_context("x", [], parent=whole, resilient_parsing=True)
    return [
        {parameter.metavar} if parameter.param_type_name == "argument" else set(parameter.opts)
        for parameter in command.get_params(context)
    ]


def test_the_commands_of_the_page_are_those_of_the_program() -> None:
    assert list(sections()) == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_options_of_a_command_are_those_of_the_page(name: str) -> None:
    written = list(documented(sections()[name]).values())
    assert sorted(map(sorted, written)) == sorted(map(sorted, known(COMMANDS[name])))


@pytest.mark.parametrize("name", COMMANDS)
def test_what_an_option_takes_is_called_the_same(name: str) -> None:
    for parameter in COMMANDS[name].params:
        if parameter.param_type_name == "option" and parameter.metavar is not None:
            longest = max(parameter.opts, key=len)
            assert any(f"`{longest} {parameter.metavar}`" in row for row in documented(sections()[name]))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_sentence_of_help(name: str) -> None:
    for parameter in COMMANDS[name].params:
        assert parameter.help
        assert parameter.help.endswith(".")


def test_the_hops_of_the_page_are_those_that_are_tried() -> None:
    from gateway.check import HOPS

    table = sections()["pg-gateway check"].split("| hop |")[1].split("\n\n")[0]
    assert tuple(re.findall(r"^\| (\w+) \|", table, re.MULTILINE)) == HOPS
