"""docs/configuration.md names the keys, defaults and variables that the code knows, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.config import load_config
from gateway.config_keys import KEY_BY_NAME, KEYS, VARIABLES
from gateway.errors import ConfigError
from gateway.profiles import Endpoint, Profile

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading."""
    after = PAGE.read_text().split(f"\n{heading}\n", 1)[1]
    table = re.search(r"(?:^\|.*\n)+", after, re.MULTILINE)
    assert table is not None
    return [[cell.strip() for cell in line.strip("|\n").split(" | ")] for line in table.group().splitlines()[2:]]


def as_documented(default: object) -> str:
    match default:
        case None:
            return "none"
        case bool():
            return f"`{str(default).lower()}`"
        case float():
            return f"`{default:g}`"
        case tuple():
            return f"`{list(default)}`"
        case _:
            return f"`{default}`"


def test_the_keys_of_the_page_are_those_of_the_code() -> None:
    documented = [(key, kind, default, meaning) for key, kind, default, meaning in rows("## Keys of a profile")]
    assert documented == [(f"`{k.name}`", k.kind, as_documented(k.default), k.meaning) for k in KEYS]


def test_the_variables_of_the_page_are_those_of_the_code() -> None:
    assert rows("## Environment") == [[f"`{v.name}`", v.meaning] for v in VARIABLES]


def test_each_variable_overrides_a_known_key() -> None:
    of_the_environment_alone = {"", "azure_client_id", "azure_client_secret", "azure_tenant_id"}
    assert {v.key for v in VARIABLES} - KEY_BY_NAME.keys() == of_the_environment_alone


def test_the_defaults_of_the_table_are_those_of_a_bare_profile(tmp_path: Path) -> None:
    (tmp_path / "profiles.toml").write_text('[profiles.x]\nuser = "u"\n')
    config = load_config(None, {}, cwd=tmp_path, user_config_dir=tmp_path)
    bare = Profile(name="x", endpoints=(Endpoint(host="localhost"),), database="u", user="u")
    assert config.profiles["x"] == bare


def test_the_example_of_the_page_loads(tmp_path: Path) -> None:
    example = re.search(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert example is not None
    (tmp_path / "profiles.toml").write_text(example.group(1))
    config = load_config(None, {}, cwd=tmp_path, user_config_dir=tmp_path)
    assert list(config.profiles) == ["local", "staging"]
    assert config.warnings == ()


@pytest.mark.parametrize("table", ["pool_size = { max = 0 }", 'ssl_mod = "x"'])
def test_the_faults_of_the_page_are_those_of_the_code(tmp_path: Path, table: str) -> None:
    (tmp_path / "profiles.toml").write_text(f'[profiles.azure_prod]\nuser = "u"\n{table}\n')
    with pytest.raises(ConfigError) as caught:
        load_config(None, {}, cwd=tmp_path, user_config_dir=tmp_path)
    for fault in caught.value.faults:
        assert fault in PAGE.read_text()
