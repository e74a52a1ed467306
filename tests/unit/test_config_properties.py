from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.config import load_config
from gateway.config_keys import KEYS, VARIABLES
from gateway.errors import ConfigError

SECRET = "hunter22SECRET"
TWO = """
default = "a"
[profiles.a]
host = "filehost"
port = 6000
database = "filedb"
user = "fileuser"
password = "env:FILE_PASSWORD"
ssl_mode = "verify-full"
[profiles.b]
host = "other"
user = "u"
"""
scalars = st.one_of(
    st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.dates(), st.sampled_from([SECRET, "env:A"])
)
key_names = st.sampled_from([*(part for key in KEYS for part in key.name.split(".")), "hots", "", "a b"])
good = st.sampled_from(
    [
        ("host", "h"),
        ("port", 1),
        ("user", "u"),
        ("password", SECRET),
        ("url", f"postgresql://u:{SECRET}@h/d?sslmode=require"),
        ("url", f"postgresql://u:{SECRET}@x@h"),
        ("ssl_mode", "verify-ca"),
        ("azure_server_type", "single"),
        ("use_azure_ad", True),
        ("pool_size", {"min": 3, "max": 2}),
        ("limits", {"call_s": 0.5, "rows": 3}),
    ]
)
pairs = st.one_of(
    good, st.tuples(key_names, st.one_of(scalars, st.lists(scalars, max_size=2), st.dictionaries(key_names, scalars)))
)
tables = st.lists(pairs, max_size=8).map(dict)
documents = st.fixed_dictionaries(
    {},
    optional={"default": st.one_of(st.just("a"), scalars), "profiles": st.dictionaries(st.sampled_from("abc"), tables)},
)


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(toml(inner) for inner in value) + "]"
    if isinstance(value, bool | str):
        return json.dumps(value).replace("\x7f", "\\u007f")
    return str(value)


def outcome(text: str, environ: Mapping[str, str], folder: Path) -> str:
    """Return what a person would see of the configuration, whether it has faults or not."""
    (folder / "profiles.toml").write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        return repr(load_config(None, environ, cwd=folder, user_config_dir=folder))
    except ConfigError as error:
        faults, seen = error.faults, f"{error} {error.hint} {error.to_dict()}"
    assert faults
    assert all(fault.strip() and "\n" not in fault for fault in faults)
    return seen


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("any")


@given(documents)
@example({"profiles": {"a": {"user": "u", "password": SECRET}}})
def test_any_mapping_is_a_configuration_or_a_configuration_error(shared_folder: Path, document: dict[str, Any]) -> None:
    text = "\n".join(f"{key} = {toml(value)}" for key, value in document.items())
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        text = "profiles = { a = { user = 'u' } }"
    seen = outcome(text, {}, shared_folder)
    where_it_is_no_secret = any(
        SECRET in str(value)
        for table in document.get("profiles", {}).values()
        for key, value in table.items()
        if key not in ("password", "url")
    ) or SECRET in str(document.get("default"))
    assert where_it_is_no_secret or SECRET not in seen


@given(st.dictionaries(st.sampled_from([v.name for v in VARIABLES]), st.text(max_size=30)))
def test_any_environment_is_a_configuration_or_a_configuration_error(
    shared_folder: Path, environ: dict[str, str]
) -> None:
    assert outcome(TWO, environ, shared_folder)
