"""The table of scenarios: what there is, which may stop a server, and how names are chosen."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.drill_scenarios import SCENARIOS
from gateway.drilling import check_writable, choose_scenarios
from gateway.errors import InvalidArguments

NAMES = [scenario.name for scenario in SCENARIOS]
PAGE = (Path(__file__).parents[2] / "docs" / "commands.md").read_text()


def test_names_are_unique_and_each_says_what_happens() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert all(scenario.summary for scenario in SCENARIOS)


def test_only_two_stop_a_server() -> None:
    assert [scenario.name for scenario in SCENARIOS if scenario.own_server] == ["restart", "crash"]


def test_every_scenario_is_in_the_documentation() -> None:
    table = PAGE.split("| scenario |")[1].split("\n\n")[0]
    assert re.findall(r"^\| ([\w-]+) \|", table, re.MULTILINE) == NAMES


def test_without_names_a_profile_gets_all_that_do_not_touch_the_database() -> None:
    assert [it.name for it in choose_scenarios((), own_server=False)] == NAMES[:-2]
    assert [it.name for it in choose_scenarios((), own_server=True)] == NAMES


def test_names_are_taken_in_their_order_and_once() -> None:
    assert [it.name for it in choose_scenarios(("half", "killed", "half"), own_server=False)] == ["half", "killed"]


def test_an_unknown_name_gets_the_nearest_ones() -> None:
    with pytest.raises(InvalidArguments) as caught:
        choose_scenarios(("latnecy",), own_server=False)
    assert caught.value.message == "no scenario named 'latnecy'"
    assert (caught.value.hint or "").startswith("Did you mean latency?")


@pytest.mark.parametrize("name", ["restart", "crash"])
def test_a_scenario_that_stops_a_server_is_refused_for_a_profile(name: str) -> None:
    with pytest.raises(InvalidArguments, match="with --demo only"):
        choose_scenarios((name,), own_server=False)


def test_a_page_that_could_not_be_written_is_refused_before_the_drill(tmp_path: Path) -> None:
    check_writable(None)
    check_writable(tmp_path / "page.html")
    for file in (tmp_path, tmp_path / "absent" / "page.html"):
        with pytest.raises(InvalidArguments, match="cannot be written"):
            check_writable(file)
