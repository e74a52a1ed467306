from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from gateway.config import load_config
from gateway.errors import ConfigError
from tests.support.configuration import faults, load

TOP = Path(__file__).parents[2]


def test_the_profiles_of_the_repository_load_without_a_fault() -> None:
    config = load_config(TOP / "profiles.toml", {}, cwd=TOP, user_config_dir=TOP)
    assert list(config.profiles) == ["local", "azure_dev", "azure_prod"]
    assert (config.default, config.pinned, config.warnings) == ("local", False, ())


def test_a_profile_that_needs_more_than_this_version_does_not_stop_the_others() -> None:
    profiles = load_config(TOP / "profiles.toml", {}, cwd=TOP, user_config_dir=TOP).profiles
    assert profiles["local"].unsupported() is None
    assert "Key Vault" in (profiles["azure_dev"].unsupported() or "")
    assert "use_azure_ad" in (profiles["azure_prod"].unsupported() or "")


# Where the file is found


def named(name: str) -> str:
    return f'[profiles.{name}]\nuser = "u"\n'


def test_the_file_is_looked_for_in_the_documented_order(tmp_path: Path) -> None:
    (tmp_path / "asked.toml").write_text(named("asked"))
    (tmp_path / "variable.toml").write_text(named("variable"))
    (tmp_path / "profiles.toml").write_text(named("working"))
    (tmp_path / "user").mkdir()
    (tmp_path / "user" / "profiles.toml").write_text(named("users"))
    environ = {"PG_GATEWAY_CONFIG": "variable.toml"}

    def found(path: Path | None, environ: Mapping[str, str]) -> str:
        return load_config(path, environ, cwd=tmp_path, user_config_dir=tmp_path / "user").default

    assert found(Path("asked.toml"), environ) == "asked"
    assert found(None, environ) == "variable"
    assert found(None, {}) == "working"
    (tmp_path / "profiles.toml").unlink()
    assert found(None, {}) == "users"


def test_a_file_that_was_asked_for_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "profiles.toml").write_text(named("working"))
    with pytest.raises(ConfigError, match=r'--config = "no.toml": there is no such file'):
        load_config(Path("no.toml"), {}, cwd=tmp_path, user_config_dir=tmp_path)
    assert faults(tmp_path, None, {"PG_GATEWAY_CONFIG": "no.toml"}) == [
        'environment: PG_GATEWAY_CONFIG = "no.toml": there is no such file'
    ]


def test_nothing_configured_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no profile is configured") as caught:
        load(tmp_path)
    assert "DATABASE_URL" in (caught.value.hint or "")
    assert faults(tmp_path, "") == ["profiles.toml: no profile is configured"]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"a = 1\nb = = 2\n", "profiles.toml: line 2, column 5: Invalid value"),
        (b"[profiles.x", "profiles.toml: Expected ']' at the end of a table declaration (at end of document)"),
        (b"a = \xff", "profiles.toml: is not UTF-8 at byte 5"),
        (b"a = " + b"9" * 5000, "profiles.toml: holds a value that is too long or too deep to read"),
        (b"a = " + b"[" * 5000, "profiles.toml: holds a value that is too long or too deep to read"),
    ],
    ids=["syntax", "end", "encoding", "long", "deep"],
)
def test_a_file_that_cannot_be_parsed_names_the_place(tmp_path: Path, content: bytes, fault: str) -> None:
    (tmp_path / "profiles.toml").write_bytes(content)
    assert faults(tmp_path) == [fault]


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "profiles.toml").write_bytes(b"\xef\xbb\xbf" + named("x").encode())
    assert load(tmp_path).default == "x"


def test_all_faults_of_a_file_and_the_environment_are_reported_together(tmp_path: Path) -> None:
    text = """
        defualt = "a"
        [profiles.a]
        user = "u"
        port = 0
        [profiles."b c"]
        user = "u"
        [profiles.d]
        ssl_mod = "require"
    """
    assert faults(tmp_path, text, {"PGPORT": "abc", "DB_PROFILE": "aa"}) == [
        "profiles.toml: defualt: unknown key; did you mean default?",
        'profiles.toml: [profiles."b c"]: a profile\'s name is a letter, then at most 62 letters, digits, _ or -',
        'environment: PGPORT = "abc": must be a whole number from 1 to 65535',
        'environment: DB_PROFILE = "aa": names no profile; did you mean a?',
        "profiles.toml: [profiles.a] port = 0: must be at least 1",
        "profiles.toml: [profiles.d] ssl_mod: unknown key; did you mean ssl_mode?",
        "profiles.toml: [profiles.d] user: is missing: name the role to log in as",
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("profiles = 3", "profiles = 3: must be tables, as [profiles.local]"),
        ("profiles.x = 3", "profiles.x: must be a table: a profile's keys stand below [profiles.NAME]"),
        ("default = 'y'\n" + named("x"), 'default = "y": names no profile; known are x'),
        ("default = 3\n" + named("x"), "default = 3: names no profile; known are x"),
        (named("x") + named("y"), "default: is missing: name one of x, y"),
    ],
)
def test_the_top_of_the_file_is_checked(tmp_path: Path, text: str, fault: str) -> None:
    assert faults(tmp_path, text) == [f"profiles.toml: {fault}"]


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no file that root may open and not read")
def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="/proc/self/mem: cannot be read: "):
        load_config(Path("/proc/self/mem"), {}, cwd=tmp_path, user_config_dir=tmp_path)
