from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config_keys import written
from gateway.profiles import Endpoint, Profile, Tls
from tests.support.configuration import faults, load, one

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


def place(profile: Profile) -> tuple[str, int, str, str, str | None]:
    (endpoint,) = profile.endpoints
    return endpoint.host, endpoint.port, profile.database, profile.user, profile.password


def test_the_environment_alone_makes_a_profile(tmp_path: Path) -> None:
    environ = {"PGHOST": "h", "PGPORT": "77", "PGDATABASE": "d", "PGUSER": "u", "PGPASSWORD": "hunter22"}
    config = load(tmp_path, environ=environ)
    assert (config.default, config.pinned, config.path) == ("default", False, None)
    assert place(config.profiles["default"]) == ("h", 77, "d", "u", "env:PGPASSWORD")


def test_the_environment_alone_can_name_its_profile(tmp_path: Path) -> None:
    config = load(tmp_path, environ={"DATABASE_URL": "postgres://u@h/d", "DB_PROFILE": "shop"})
    assert (list(config.profiles), config.default, config.pinned) == (["shop"], "shop", True)
    assert faults(tmp_path, None, {"DATABASE_URL": "postgres://u@h/d", "DB_PROFILE": "a b"}) == [
        'environment: DB_PROFILE = "a b": a profile\'s name is a letter, then at most 62 letters, digits, _ or -'
    ]


def test_the_environment_alone_must_name_a_user(tmp_path: Path) -> None:
    assert faults(tmp_path, None, {"PGHOST": "h"}) == ["environment: PGUSER: is missing: name the role to log in as"]


def test_variables_change_the_default_profile_and_no_other(tmp_path: Path) -> None:
    config = load(tmp_path, TWO, {"PGHOST": "h", "PGUSER": "me", "SSL_MODE": "require"})
    assert place(config.profiles["a"]) == ("h", 6000, "filedb", "me", "env:FILE_PASSWORD")
    assert config.profiles["a"].overrides == (("host", "PGHOST"), ("user", "PGUSER"), ("ssl_mode", "SSL_MODE"))
    assert place(config.profiles["b"]) == ("other", 5432, "u", "u", None)
    assert config.profiles["b"].overrides == ()


def test_db_profile_pins_and_takes_the_variables_with_it(tmp_path: Path) -> None:
    config = load(tmp_path, TWO, {"DB_PROFILE": "b", "PGPORT": "1"})
    assert (config.default, config.pinned) == ("b", True)
    assert config.profiles["a"].overrides == ()
    assert place(config.profiles["b"]) == ("other", 1, "u", "u", None)


def test_a_database_url_replaces_the_whole_connection_but_not_the_encryption(tmp_path: Path) -> None:
    profile = load(tmp_path, TWO, {"DATABASE_URL": "postgresql://me@h"}).profiles["a"]
    assert place(profile) == ("h", 5432, "me", "me", None)
    assert profile.tls == Tls(mode="verify-full")
    assert ("password", "DATABASE_URL") in profile.overrides


def test_single_variables_beat_the_database_url(tmp_path: Path) -> None:
    environ = {"DATABASE_URL": "postgresql://me:hunter22@h:9/d?sslmode=require", "PGPORT": "10", "PGPASSWORD": "x"}
    profile = load(tmp_path, TWO, environ).profiles["a"]
    assert place(profile) == ("h", 10, "d", "me", "env:PGPASSWORD")
    assert profile.tls == Tls(mode="require")
    assert dict(profile.overrides) == {
        "host": "DATABASE_URL",
        "port": "PGPORT",
        "database": "DATABASE_URL",
        "user": "DATABASE_URL",
        "password": "PGPASSWORD",
        "ssl_mode": "DATABASE_URL",
    }


def test_a_host_of_the_environment_replaces_several_and_a_port_is_that_of_all(tmp_path: Path) -> None:
    keys = 'hosts = ["a:1", "b:2"]'
    assert one(tmp_path, keys, {"PGHOST": "h"}).endpoints == (Endpoint(host="h"),)
    assert one(tmp_path, keys, {"PGPORT": "3"}).endpoints == (Endpoint(host="a", port=3), Endpoint(host="b", port=3))


def test_a_password_of_a_url_stays_itself_whatever_it_looks_like(tmp_path: Path) -> None:
    config = load(tmp_path, environ={"DATABASE_URL": "postgres://u:env%3AX@h"})
    assert config.profiles["default"].password == "literal:env:X"
    assert config.warnings == ()


@pytest.mark.parametrize("value", ["", "  ", "${PGHOST}", "${PGHOST:-}", "${input:host}"])
def test_a_variable_without_a_value_counts_as_missing(tmp_path: Path, value: str) -> None:
    config = load(tmp_path, TWO, {"PGHOST": value})
    assert place(config.profiles["a"])[0] == "filehost"
    assert len(config.warnings) == (1 if "$" in value else 0)
    assert written({"PGHOST": value}, "PGHOST") is None


def test_the_variables_of_azure_reach_the_profile(tmp_path: Path) -> None:
    environ = {
        "AZURE_SERVER_NAME": "srv",
        "AZURE_DATABASE_NAME": "d",
        "PGUSER": "app",
        "USE_AZURE_AD": "True",
        "USE_MANAGED_IDENTITY": "1",
        "AZURE_CLIENT_ID": "id",
        "AZURE_TENANT_ID": "tenant",
        "AZURE_CLIENT_SECRET": "hunter22",
    }
    profile = load(tmp_path, environ=environ).profiles["default"]
    assert place(profile) == ("srv.postgres.database.azure.com", 5432, "d", "app", None)
    azure = profile.azure
    assert (azure.use_ad, azure.credential, azure.client_id, azure.tenant_id, azure.client_secret) == (
        True,
        "managed_identity",
        "id",
        "tenant",
        "hunter22",
    )
    assert profile.tls.mode == "verify-full"


def test_a_vault_can_come_from_the_environment(tmp_path: Path) -> None:
    environ = {
        "AZURE_KEY_VAULT_URL": "https://v.vault.azure.net/",
        "DB_PASSWORD_SECRET_NAME": "pg",
        "SSL_CERT_PATH": "r",
    }
    profile = load(tmp_path, TWO, environ).profiles["a"]
    assert profile.password == "keyvault:pg"
    assert profile.azure.key_vault_url == "https://v.vault.azure.net/"
    assert profile.tls.root_cert == f"{tmp_path}/r"


def test_the_environment_decides_between_token_and_password(tmp_path: Path) -> None:
    by_token = one(tmp_path, 'password = "env:A"', {"USE_AZURE_AD": "true"})
    assert (by_token.azure.use_ad, by_token.password) == (True, None)
    by_password = one(tmp_path, "use_azure_ad = true", {"PGPASSWORD": "x"})
    assert (by_password.azure.use_ad, by_password.password) == (False, "env:PGPASSWORD")
    assert by_password.overrides == (("use_azure_ad", "PGPASSWORD"), ("password", "PGPASSWORD"))


@pytest.mark.parametrize(
    ("environ", "fault"),
    [
        ({"PGPORT": "0"}, 'PGPORT = "0": must be a whole number from 1 to 65535'),
        ({"USE_AZURE_AD": "maybe"}, 'USE_AZURE_AD = "maybe": must be true or false'),
        ({"SSL_MODE": "on"}, 'SSL_MODE = "on": must be one of disable, prefer, require, verify-ca, verify-full'),
        ({"AZURE_KEY_VAULT_URL": "v"},
         'AZURE_KEY_VAULT_URL = "v": must be the address of a vault, as https://NAME.vault.azure.net/'),
        ({"PGHOST": "a", "AZURE_SERVER_NAME": "b.c"},
         ('AZURE_SERVER_NAME = "b.c": contradicts PGHOST: leave one of '
          "them out")),
        ({"USE_AZURE_AD": "1", "PGPASSWORD": "x"},
         ('USE_AZURE_AD = "1": contradicts the password of PGPASSWORD: leave '
          "one of them out")),
        ({"DATABASE_URL": "mysql://u:hunter22@h"},
         'DATABASE_URL = "***": must begin with postgresql:// or postgres://'),
        ({"DATABASE_URL": "postgres://u@h?sslmode=on"},
         ('DATABASE_URL = "postgres://u@h?sslmode=on": sslmode must be '
          "one of disable, prefer, require, verify-ca, verify-full")),
    ],
)  # fmt: skip
def test_a_variable_that_does_not_fit_is_named(tmp_path: Path, environ: dict[str, str], fault: str) -> None:
    assert faults(tmp_path, TWO, environ) == [f"environment: {fault}"]
