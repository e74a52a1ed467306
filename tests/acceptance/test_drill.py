"""`pg-gateway drill` as an operator runs it, with real faults, on throw-away servers and on profiles."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
from asyncio import create_subprocess_exec
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path
from typing import Any

import pytest

from gateway.drill_scenarios import SCENARIOS
from gateway.errors import ConfigError
from gateway.toxiproxy import find
from tests.support.gateway import write_profiles
from tests.support.missing import missing
from tests.support.polling import until
from tests.support.postgres import Pair
from tests.support.processes import END_S, command, environment, run

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def toxiproxy() -> None:
    """Skip, with its reason, where there is no Toxiproxy."""
    try:
        find()
    except ConfigError as error:
        missing(f"{error.message}; {error.hint}")


@pytest.mark.usefixtures("toxiproxy")
async def test_a_drill_of_the_demo_in_one_command_loses_nothing(tmp_path: Path) -> None:
    ended = await run("drill", "--demo", "-s", "killed", "-s", "refused", "--seconds", "2", "--json", cwd=tmp_path)

    report = json.loads(ended.out)
    assert ended.code == 0, ended.err + ended.out
    assert (report["profile"], report["neighbours"], report["verdict"]) == ("local", ["azure_dev"], "pass")
    assert report["command"] == "pg-gateway drill --demo -s killed -s refused --seconds 2 --json"
    assert [it["scenario"] for it in report["scenarios"]] == ["killed", "refused"]
    for scenario in report["scenarios"]:
        assert scenario["answered"] == scenario["calls"] > 20
        assert scenario["lost_although_savable"] == 0
        # Somebody is in mid-query at any moment, so every cut is met.
        assert scenario["retries"] > 0
        assert scenario["notice_s"] < 2.0
        assert scenario["recover_s"] <= 3.0
        assert scenario["neighbours"][0]["failed"] == 0
    killed, refused = report["scenarios"]
    assert killed["longest_s"] < refused["longest_s"]
    assert 2.0 <= refused["unreachable_s"] < 2.0 + 3.0
    # What is done, and what is not, is told before it is done.
    assert "The database itself is not touched" in ended.err
    assert not await asyncio.to_thread(lambda: list(tmp_path.iterdir()))


@pytest.mark.usefixtures("toxiproxy")
async def test_a_drill_leaves_a_page_for_the_record(tmp_path: Path) -> None:
    page = tmp_path / "drill.html"
    ended = await run("drill", "--demo", "--scenario", "restart", "--seconds", "0.5", "--html", str(page))

    assert ended.code == 0, ended.err + ended.out
    assert f"Wrote {page}" in ended.out
    row = next(
        line
        for line in map(str.rstrip, ended.out.splitlines())
        if line.startswith("restart ") and line.endswith(("pass", "FAIL"))
    )
    assert row.split()[-1] == "pass"
    text = page.read_text()
    assert text.count("<svg") == 1
    assert 'id="restart"' in text
    assert "src=" not in text


@pytest.mark.usefixtures("toxiproxy")
async def test_a_profile_is_drilled_with_those_beside_it_as_neighbours(tmp_path: Path, databases: Pair) -> None:
    gone = '[profiles.gone]\nhost = "127.0.0.1"\nport = 1\ndatabase = "x"\nuser = "x"\nssl_mode = "disable"'
    config = write_profiles(tmp_path, databases, extra=gone)
    options = ("-s", "half", "--seconds", "1", "--call-seconds", "8", "--callers", "2", "--json")
    ended = await run("drill", "second", *options, "--config", str(config))

    report = json.loads(ended.out)
    assert ended.code == 0, ended.err + ended.out
    assert (report["profile"], report["call_s"], report["callers"]) == ("second", 8, 2)
    assert report["address"] == f"{databases.second.host}:{databases.second.port}/{databases.second.name}"
    assert report["neighbours"] == ["first"]
    assert list(report["left_out"]) == ["gone"]
    assert databases.second.reader_password not in ended.out + ended.err


@pytest.mark.usefixtures("toxiproxy")
async def test_a_profile_that_does_not_answer_without_a_fault_is_not_drilled(tmp_path: Path, databases: Pair) -> None:
    config = write_profiles(tmp_path, databases)
    config.write_text(config.read_text().replace(f"port = {databases.first.port}", "port = 1"))
    ended = await run("drill", "first", "--config", str(config), "--call-seconds", "2")

    assert ended.code == 1
    assert ended.err.startswith("unavailable: ")


@pytest.mark.usefixtures("toxiproxy")
async def test_ctrl_c_ends_a_drill_in_order_and_reports_what_was_done(tmp_path: Path) -> None:
    log = tmp_path / "log"
    argv = command("drill", "--demo", "-s", "killed", "-s", "black-hole", "--seconds", "0.5", "--json")
    environ = environment(TMPDIR=str(tmp_path))
    with log.open("wb") as err:
        process = await create_subprocess_exec(*argv, stdin=DEVNULL, stdout=PIPE, stderr=err, env=environ)
    try:
        assert await until(
            lambda: "black-hole: fault" in log.read_text() or process.returncode is not None, within_s=40
        )
        process.send_signal(signal.SIGINT)
        out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()

    report = json.loads(out)
    assert process.returncode == 130
    assert report["interrupted"] == "black-hole"
    assert [it["scenario"] for it in report["scenarios"]] == ["killed"]
    assert "Traceback" not in log.read_text()
    # The servers' folders go with the servers.
    assert await until(lambda: [path.name for path in tmp_path.iterdir()] == ["log"], within_s=END_S)


async def test_the_scenarios_are_listed() -> None:
    ended = await run("drill", "--list")
    assert (ended.code, ended.err) == (0, "")
    assert [line.split()[0] for line in ended.out.splitlines()] == [it.name for it in SCENARIOS]

    listed: list[dict[str, Any]] = json.loads((await run("drill", "--list", "--json")).out)
    assert [it["name"] for it in listed if it["demo_only"]] == ["restart", "crash"]


# A wrong command line, and what is said of it.
MISUSES = {
    "a typing error": (["--demo", "-s", "latnecy"], "no scenario named 'latnecy'\n  Did you mean latency?"),
    "a crash of a database": (["-s", "crash"], "the scenario crash stops a server, so it exists with --demo only"),
    "a page in no folder": (["--demo", "--html", "absent/page.html"], "absent/page.html: the file cannot be written"),
}


@pytest.mark.parametrize("misuse", MISUSES)
async def test_a_wrong_command_line_is_explained_before_anything_is_done(misuse: str, tmp_path: Path) -> None:
    arguments, words = MISUSES[misuse]
    ended = await run("drill", *arguments, cwd=tmp_path)
    assert (ended.code, ended.out) == (2, "")
    assert words in ended.err


async def test_an_unknown_profile_is_named(tmp_path: Path, databases: Pair) -> None:
    ended = await run("drill", "frist", "--config", str(write_profiles(tmp_path, databases)))
    assert (ended.code, ended.out) == (2, "")
    assert "no profile named 'frist'; use one of: first, second" in ended.err


async def test_without_toxiproxy_it_says_how_to_get_it(tmp_path: Path) -> None:
    # A package that lies in no checkout, and a PATH with nothing on it.
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "gateway", tmp_path / "gateway", ignore=ignored)
    nowhere = tmp_path / "bin"
    nowhere.mkdir()
    ended = await run("drill", "--demo", cwd=tmp_path, environ=environment(PATH=str(nowhere)))

    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("config_error: Toxiproxy's server was not found")
    assert "go install github.com/Shopify/toxiproxy" in ended.err
