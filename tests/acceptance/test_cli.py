"""The commands for people: what they print, where, and with which exit code."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import pytest

from gateway import __version__
from tests.support.gateway import write_profiles
from tests.support.postgres import Pair
from tests.support.processes import command, environment, run, run_program

pytestmark = pytest.mark.anyio

COMMANDS = ["serve", "profiles", "check", "query", "demo", "drill"]


@pytest.fixture
def config(tmp_path: Path, databases: Pair) -> Path:
    return write_profiles(tmp_path, databases)


async def test_the_module_and_the_script_are_the_same_command() -> None:
    script = Path(sys.executable).with_name("pg-gateway")
    for argv in (command("--version"), [str(script), "--version"]):
        ended = await run_program(argv)
        assert (ended.code, ended.out, ended.err) == (0, f"pg-gateway {__version__}\n", "")


async def test_help_names_every_command() -> None:
    for arguments in (["--help"], ["-h"], []):
        ended = await run(*arguments)
        text = ended.out + ended.err
        assert [name for name in COMMANDS if f"\n  {name} " in text] == COMMANDS
        assert "profiles.toml" in text
        # Nothing is cut off.
        assert "..." not in text.replace("[ARGS]...", "")


@pytest.mark.parametrize("name", COMMANDS)
async def test_help_of_a_command_fits_a_terminal_and_ends_its_sentences(name: str) -> None:
    ended = await run(name, "--help", environ=environment(COLUMNS="80"))
    assert ended.code == 0
    assert max(map(len, ended.out.splitlines())) <= 80
    assert ended.out.splitlines()[2].startswith("  ")


@pytest.mark.parametrize("arguments", [["nosuch"], ["query"], ["serve", "--log-level", "loud"], ["check", "--bogus"]])
async def test_a_wrong_command_line_is_explained_without_a_traceback(arguments: list[str]) -> None:
    ended = await run(*arguments)
    assert ended.code == 2
    assert "Error: " in ended.err
    assert "Traceback" not in ended.err


async def test_profiles_are_listed(config: Path, databases: Pair) -> None:
    ended = await run("profiles", "--config", str(config))

    assert ended.code == 0
    assert ended.err == ""
    for name, database in zip(("first", "second"), databases, strict=True):
        line = next(line for line in ended.out.splitlines() if f" {name} " in line)
        assert f"{database.host}:{database.port}/{database.name}" in line
        assert database.reader in line
        assert ("●" in line) is (name == "first")
        assert database.reader_password not in ended.out


async def test_profiles_are_listed_for_programs(config: Path, databases: Pair) -> None:
    environ = environment(DB_PROFILE="second", PGDATABASE="elsewhere", PG_GATEWAY_CONFIG=str(config))
    listed = json.loads((await run("profiles", "--json", environ=environ)).out)

    assert listed["file"] == str(config)
    assert listed["pinned"] is True
    first, second = listed["profiles"]
    assert (first["name"], first["active"], first["overrides"]) == ("first", False, {})
    assert (second["name"], second["active"]) == ("second", True)
    assert second["overrides"] == {"database": "PGDATABASE"}
    assert second["target"].endswith("/elsewhere")
    assert databases.second.reader_password not in json.dumps(listed)


async def test_a_single_database_needs_no_file(tmp_path: Path, databases: Pair) -> None:
    environ = environment(DATABASE_URL=f"{databases.first.reader_dsn}?sslmode=disable", HOME=str(tmp_path))
    asked = await run("query", "SELECT current_database() AS name", "-f", "csv", cwd=tmp_path, environ=environ)
    assert asked.out == f"name\n{databases.first.name}\n"


async def test_all_faults_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "profiles.toml").write_text(
        '[profiles.a]\nhosst = "x"\nuser = "u"\nport = "y"\npassword = "swordfish"\n[profiles.9]\nuser = "u"\n'
    )
    for name in ("serve", "profiles", "check", "query"):
        ended = await run(name, *(["SELECT 1"] if name == "query" else []), cwd=tmp_path)
        assert ended.code == 2
        assert ended.out == ""
        for fault in ("[profiles.a] hosst: unknown key; did you mean host?", "[profiles.a] port", "[profiles.9]"):
            assert fault in ended.err
        assert "swordfish" not in ended.err
        assert "Traceback" not in ended.err


async def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    ended = await run("profiles", "--config", "absent.toml", cwd=tmp_path)
    assert ended.code == 2
    assert "absent.toml" in ended.err


# A value of each kind that the three formats treat in a way of their own.
VALUES = """
SELECT * FROM (VALUES (1, 'a,"b"', NULL::text, '{"k": [1]}'::json), (2, '[bold]x', '', NULL)) AS v(id, text, none, doc)
"""


async def test_query_prints_a_table(config: Path) -> None:
    ended = await run("query", VALUES, "--config", str(config))
    assert ended.code == 0
    assert ended.out.startswith("first")
    for word in ("id", "text", 'a,"b"', "NULL", '{"k":[1]}', "[bold]x"):
        assert word in ended.out.replace(" ", "").replace('{"k":[1]}', '{"k":[1]}')
    assert ended.err.strip() == "2 rows"


async def test_query_prints_csv(config: Path) -> None:
    ended = await run("query", VALUES, "--config", str(config), "--format", "csv")
    rows = list(csv.reader(io.StringIO(ended.out)))
    assert rows[0] == ["id", "text", "none", "doc"]
    assert rows[1][:3] == ["1", 'a,"b"', ""]
    assert json.loads(rows[1][3]) == {"k": [1]}
    assert rows[2] == ["2", "[bold]x", "", ""]


async def test_query_prints_json(config: Path) -> None:
    ended = await run("query", VALUES, "--config", str(config), "--format", "json", "--profile", "second")
    answer = json.loads(ended.out)
    assert answer["profile"] == "second"
    assert answer["rows"] == [[1, 'a,"b"', None, {"k": [1]}], [2, "[bold]x", "", None]]


async def test_query_reads_its_statement_from_stdin(config: Path) -> None:
    ended = await run("query", "-", "-c", str(config), "-f", "csv", stdin=b"SELECT 1 AS one;\n")
    assert ended.out == "one\n1\n"


async def test_query_says_when_there_are_more_rows(config: Path) -> None:
    ended = await run("query", "SELECT generate_series(1, 5)", "--config", str(config), "--limit", "3")
    assert ended.code == 0
    assert "3 rows, cut" in ended.err
    assert "More rows exist" in ended.err


# A statement or profile that fails, and what is said of it.
FAILURES = {
    "a write": (["DELETE FROM orders"], "unsafe_sql"),
    "a typing error": (["SELEC 1"], "bad_query"),
    "an unknown table": (["SELECT * FROM custmers"], "not_found"),
    "an unknown profile": (["SELECT 1", "--profile", "frist"], "unknown_profile"),
    "too many rows": (["SELECT 1", "--limit", "100000"], "invalid_arguments"),
}


@pytest.mark.parametrize("failure", FAILURES)
async def test_a_query_that_fails_exits_with_1_and_prints_no_rows(config: Path, failure: str) -> None:
    arguments, code = FAILURES[failure]
    ended = await run("query", *arguments, "--config", str(config))
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith(f"{code}: ")
    assert "Traceback" not in ended.err


async def test_a_query_that_fails_is_an_object_for_programs(config: Path) -> None:
    ended = await run("query", "DELETE FROM orders", "--config", str(config), "--format", "json")
    assert (ended.code, ended.err) == (1, "")
    assert json.loads(ended.out)["error"]["code"] == "unsafe_sql"


async def test_an_error_in_a_query_points_at_its_place(config: Path) -> None:
    ended = await run("query", "SELECT id,\n  emial\nFROM customers", "--config", str(config))
    lines = ended.err.splitlines()
    place = lines.index("      emial")
    assert lines[place + 1] == "      ^"


async def test_a_reader_of_the_output_that_stops_early_is_no_accident(config: Path) -> None:
    query = " ".join(command("query", "'SELECT generate_series(1, 1000)'", "--limit", "1000", "-f", "csv", "-c"))
    ended = await run_program(["sh", "-c", f"{query} {config} | head -n 1"])
    assert ended.out == "generate_series\n"
    assert "BrokenPipe" not in ended.err
    assert "Traceback" not in ended.err
