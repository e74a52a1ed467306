from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.configuration import faults


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ("pool_size.max = 0", "pool_size.max = 0: must be at least 1"),
        ("pool_size = { mn = 1 }", "pool_size.mn: unknown key; did you mean pool_size.min?"),
        ("pool_size = 3", "pool_size = 3: must be a table, as { min = 1 }"),
        ('hots = "a"', "hots: unknown key; did you mean hosts?"),
        ('"ho t" = "a"', '"ho t": unknown key; did you mean host?'),
        ('port = "5432"', 'port = "5432": must be a whole number from 1 to 65535, not a string'),
        ("port = true", "port = true: must be a whole number from 1 to 65535, not a boolean"),
        ("port = 65536", "port = 65536: must be at most 65535"),
        ("production = 1", "production = 1: must be true or false, not an integer"),
        ("host = 1979-05-27", "host = 1979-05-27: must be a string, not a date or time"),
        ('host = " "', 'host = " ": must not be empty'),
        ('host = "a b"', 'host = "a b": is not the name of a host'),
        ('host = "a:1"', 'host = "a:1": must be the host alone: the port has a key of its own'),
        ('host = "a,b"', 'host = "a,b": names one server; several are hosts = ["a:5432", "b:5432"]'),
        ('host = "${PGHOST}"', 'host = "${PGHOST}": variables are not expanded here: write the value itself'),
        ('database = "a\\u0000"', 'database = "a\\u0000": has control characters in it'),
        ("hosts = []", "hosts = […]: must name at least one server"),
        ('hosts = ["a", "a"]', "hosts = […]: entry 2 stands there twice"),
        ('hosts = ["a:x"]', "hosts = […]: entry 1 a port must be a whole number from 1 to 65535"),
        ('ssl_mode = "verify_full"',
         ('ssl_mode = "verify_full": must be one of disable, prefer, require, verify-ca, verify-full; did you mean '
          "verify-full?")),
        ("limits.call_s = '5'", 'limits.call_s = "5": must be a number of seconds, not a string'),
        ("limits.call_s = nan", "limits.call_s = nan: must be above 0 and at most 3600 seconds"),
        ("limits.call_s = inf", "limits.call_s = inf: must be above 0 and at most 3600 seconds"),
        ("limits.call_s = 0", "limits.call_s = 0: must be above 0 and at most 3600 seconds"),
        ("cache_s = -1", "cache_s = -1: must be at least 0 and at most 3600 seconds"),
        ("limits.rows = 1.5", "limits.rows = 1.5: must be a whole number from 1 to 100000, not a float"),
        ("schemas = 'public'", 'schemas = "public": must be an array of strings, not a string'),
        (f"schemas = ['{'x' * 64}']",
         "schemas = […]: entry 1 is longer than the 63 bytes of a name in PostgreSQL"),
        ("allow_functions = ['a.b.c']",
         "allow_functions = […]: entry 1 must be the plain name of a function, or schema.function"),
        ("password = 12", "password = ***: must be a string, not an integer"),
        ('password = "${LOCAL}"', 'password = ***: variables are not expanded here: write "env:LOCAL"'),
        ('password = "env:my secret"', "password = ***: env: must be followed by the name of a variable"),
        ('password = "file:"', "password = ***: file: must be followed by the path of a file"),
        ('password = "keyvault:a_b"\nkey_vault_url = "https://v"',
         ("password = ***: a secret's name in Key Vault has "
          "letters, digits and - only (NAME or NAME/VERSION)")),
        ('key_vault_url = "http://v"',
         ('key_vault_url = "http://v": must be the address of a vault, as '
          "https://NAME.vault.azure.net/")),
        (f'description = "{"x" * 1001}"', f'description = "{"x" * 60}…": must have at most 1000 characters'),
        (f"port = 0x{'f' * 5000}", "port = a very large number: must be at most 65535"),
    ],
)  # fmt: skip
def test_a_value_that_does_not_fit_is_named_with_its_place(tmp_path: Path, keys: str, fault: str) -> None:
    assert faults(tmp_path, f'[profiles.x]\nuser = "u"\n{keys}\n') == [f"profiles.toml: [profiles.x] {fault}"]
