from __future__ import annotations

from pathlib import Path

import pytest

from gateway.profiles import Limits, Tls
from tests.support.configuration import faults, load, one


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ("pool_size = { min = 20 }", "pool_size.min = 20: must not be above pool_size.max = 10, the default"),
        ("pool_size = { min = 5, max = 4 }", "pool_size.min = 5: must not be above pool_size.max = 4"),
        ("limits = { statement_s = 9, call_s = 4 }", "limits.statement_s = 9: must not be above limits.call_s = 4"),
        ("limits = { acquire_s = 40 }", "limits.acquire_s = 40: must not be above limits.call_s = 30, the default"),
        ("limits = { cell_kb = 65 }", "limits.cell_kb = 65: must not be above limits.page_kb = 64, the default"),
        ("retry = { first_wait_s = 6 }",
         "retry.first_wait_s = 6: must not be above retry.max_wait_s = 2, the default"),
        ('hosts = ["a"]\nport = 1', "hosts = […]: contradicts port: leave one of them out"),
        ('use_azure_ad = true\npassword = "env:A"', "use_azure_ad = true: contradicts password: leave one of them out"),
        ('use_azure_ad = true\nssl_mode = "prefer"',
         'ssl_mode = "prefer": a token must not travel unencrypted: use verify-full'),
        ('password = "keyvault:a"', "password = ***: keyvault: needs key_vault_url, the address of the vault"),
        ('ssl_root_cert = "system"', 'ssl_root_cert = "system": needs ssl_mode = verify-full, not prefer'),
    ],
)  # fmt: skip
def test_values_that_contradict_each_other_are_a_fault(tmp_path: Path, keys: str, fault: str) -> None:
    assert faults(tmp_path, f'[profiles.x]\nuser = "u"\n{keys}\n') == [f"profiles.toml: [profiles.x] {fault}"]


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ('host = "h"', "contradicts host"),
        ('port = 1\ndatabase = "d"', "contradicts port and database"),
        ('password = "env:A"', "says password a second time"),
        ('ssl_mode = "require"', "says ssl_mode a second time"),
        ("use_azure_ad = true", "has a password, and use_azure_ad needs none"),
    ],
)
def test_a_url_and_the_parts_it_says_contradict_each_other(tmp_path: Path, keys: str, fault: str) -> None:
    text = f'[profiles.x]\nurl = "postgresql://u:hunter22@h/d?sslmode=require"\n{keys}\n'
    place = 'profiles.toml: [profiles.x] url = "postgresql://u:***@h/d?sslmode=require"'
    assert faults(tmp_path, text) == [f"{place}: {fault}: leave one of them out"]


def test_a_lowered_call_lowers_the_defaults_below_it(tmp_path: Path) -> None:
    limits = one(tmp_path, "limits = { call_s = 3, page_kb = 4 }").limits
    assert limits == Limits(call_s=3.0, statement_s=3.0, acquire_s=3.0, page_kb=4, cell_kb=4)


def test_every_key_reaches_the_profile(tmp_path: Path) -> None:
    profile = one(
        tmp_path,
        """
        hosts = ["a:1", "[::1]:2", "c"]
        target = "standby"
        pooler = "pgbouncer"
        schemas = ["public"]
        search_path = ["a", "b"]
        allow_functions = ["f", "s.g"]
        posture = "enforce"
        description = "orders"
        production = true
        cache_s = 1.5
        retry = { attempts = 3, first_wait_s = 0.5, max_wait_s = 8 }
        """,
    )
    assert [str(endpoint) for endpoint in profile.endpoints] == ["a:1", "[::1]:2", "c:5432"]
    assert profile.address == "a:1,[::1]:2,c:5432/u"
    assert (profile.target, profile.pooler, profile.posture, profile.cache_s) == (
        "standby",
        "pgbouncer",
        "enforce",
        1.5,
    )
    assert (profile.schemas, profile.search_path, profile.allow_functions) == (("public",), ("a", "b"), ("f", "s.g"))
    assert (profile.description, profile.production) == ("orders", True)
    assert (profile.retry.attempts, profile.retry.first_wait_s, profile.retry.max_wait_s) == (3, 0.5, 8.0)
    assert profile.unsupported() == "not in this version yet: cache_s = 1.5"


@pytest.mark.parametrize(
    ("keys", "waits"),
    [
        ("", (5.0, 10.0)),
        ("limits = { call_s = 12, statement_s = 5 }", (2.0, 4.0)),
        ("limits = { call_s = 600 }", (5.0, 60.0)),
        ("retry = { first_wait_s = 0.5 }", (0.5, 10.0)),
        ("retry = { max_wait_s = 3 }", (3.0, 3.0)),
    ],
)
def test_an_azure_profile_waits_between_tries_as_azure_advises_within_its_deadline(
    tmp_path: Path, keys: str, waits: tuple[float, float]
) -> None:
    profile = one(tmp_path, f'azure_server_type = "flexible"\n{keys}')
    assert (profile.retry.first_wait_s, profile.retry.max_wait_s) == waits


@pytest.mark.parametrize("password", ["hunter22", "literal:env:X"])
def test_a_literal_password_is_a_warning_without_the_password(tmp_path: Path, password: str) -> None:
    config = load(tmp_path, f'[profiles.x]\nuser = "u"\npassword = "{password}"\n')
    assert config.profiles["x"].password == password
    assert len(config.warnings) == 1
    assert config.warnings[0].startswith("profiles.toml: [profiles.x] password: is a literal password")
    assert "hunter22" not in config.warnings[0]


def test_what_has_no_effect_is_a_warning(tmp_path: Path) -> None:
    config = load(tmp_path, '[profiles.x]\nuser = "u"\nssl_root_cert = "r"\nazure_credential = "cli"\n')
    assert [warning.split(": ")[1:3] for warning in config.warnings] == [
        ["[profiles.x] azure_credential", "has no effect without use_azure_ad = true or a keyvault"],
        ["[profiles.x] ssl_root_cert", "has no effect with ssl_mode = prefer"],
    ]


def test_paths_begin_at_the_file_that_names_them(tmp_path: Path) -> None:
    (tmp_path / "user").mkdir()
    (tmp_path / "user" / "profiles.toml").write_text(
        '[profiles.x]\nuser = "u"\npassword = "file:secret"\nssl_mode = "require"\nssl_root_cert = "~/root.crt"\n'
    )
    profile = load(tmp_path, environ={"HOME": "/home/ann"}).profiles["x"]
    assert profile.password == f"file:{tmp_path}/user/secret"
    assert profile.tls == Tls(mode="require", root_cert="/home/ann/root.crt")


# Azure


@pytest.mark.parametrize(
    ("user", "expected"), [("reader", "reader@srv"), ("reader@other", "reader@other")], ids=["bare", "written"]
)
def test_a_single_server_wants_its_name_behind_the_user(tmp_path: Path, user: str, expected: str) -> None:
    keys = f'user = "{user}"\nhost = "srv.postgres.database.azure.com"\nazure_server_type = "single"\n'
    profile = load(tmp_path, f"[profiles.x]\n{keys}").profiles["x"]
    assert profile.user == expected
    assert profile.tls.mode == "verify-full"


@pytest.mark.parametrize(
    ("user", "host", "fault"),
    [
        ("u@a@b", "srv.example.org", "names a server more than once: a single server's is user@server"),
        ("u", "10.0.0.1", 'must be "u@SERVER": the host does not tell the name of the server'),
    ],
)
def test_a_single_server_whose_user_cannot_be_written_is_a_fault(
    tmp_path: Path, user: str, host: str, fault: str
) -> None:
    keys = f'user = "{user}"\nhost = "{host}"\nazure_server_type = "single"\n'
    assert faults(tmp_path, f"[profiles.x]\n{keys}") == [f'profiles.toml: [profiles.x] user = "{user}": {fault}']


def test_a_flexible_server_takes_an_entra_user_as_it_is(tmp_path: Path) -> None:
    profile = load(
        tmp_path, '[profiles.x]\nuser = "ann@example.org"\nazure_server_type = "flexible"\nssl_mode = "require"\n'
    ).profiles["x"]
    assert (profile.user, profile.tls.mode, profile.is_azure) == ("ann@example.org", "require", True)


@pytest.mark.parametrize(
    ("option", "warning"),
    [("connect_timeout=3", "limits.call_s bounds the whole call"), ("application_name=x", "gives its own name")],
)
def test_options_of_a_url_that_are_not_used_are_a_warning(tmp_path: Path, option: str, warning: str) -> None:
    config = load(tmp_path, f'[profiles.x]\nurl = "postgresql://u@h?{option}"\n')
    assert warning in config.warnings[0]


def test_a_root_certificate_of_a_url_begins_at_the_file(tmp_path: Path) -> None:
    profile = load(tmp_path, '[profiles.x]\nurl = "postgresql://u@h?sslmode=verify-ca&sslrootcert=r"\n').profiles["x"]
    assert profile.tls == Tls(mode="verify-ca", root_cert=f"{tmp_path}/r")
