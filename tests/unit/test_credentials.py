from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.credentials import LONGEST_SECRET, resolve_password
from gateway.errors import ConfigError
from gateway.profiles import AzureSettings, Endpoint, Profile

pytestmark = pytest.mark.anyio


def profile(password: str | None, *, azure: AzureSettings | None = None) -> Profile:
    return Profile(
        name="local",
        endpoints=(Endpoint(host="localhost"),),
        database="d",
        user="u",
        password=password,
        azure=azure or AzureSettings(),
    )


@pytest.mark.parametrize(
    ("password", "expected"),
    [
        ("env:LOCAL_PASSWORD", "swordfish"),
        ("plain", "plain"),
        ("with:colon", "with:colon"),
        ("literal:env:LOCAL_PASSWORD", "env:LOCAL_PASSWORD"),
        (None, None),
    ],
)
async def test_a_password_is_found_where_the_profile_says(password: str | None, expected: str | None) -> None:
    environ = {"LOCAL_PASSWORD": "swordfish", "PGPASSWORD": "of another"}
    assert await resolve_password(profile(password), environ) == expected


@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        ({}, "is not set"),
        ({"LOCAL_PASSWORD": ""}, "is not set"),
        ({"LOCAL_PASSWORD": "${LOCAL_PASSWORD}"}, "was not expanded"),
        ({"LOCAL_PASSWORD": "${LOCAL_PASSWORD:-}"}, "was not expanded"),
        ({"LOCAL_PASSWORD": "a\0b"}, "zero byte"),
    ],
)
async def test_a_variable_without_a_password_is_named(environ: dict[str, str], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        await resolve_password(profile("env:LOCAL_PASSWORD"), environ)
    assert caught.value.message.startswith("[profiles.local] password")
    assert caught.value.profile == "local"
    assert caught.value.hint


@pytest.mark.parametrize("content", ["swordfish", "swordfish\n", "swordfish\r\n"])
async def test_a_file_is_read_without_the_end_of_its_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "secret").write_bytes(content.encode())
    assert await resolve_password(profile(f"file:{tmp_path}/secret"), {}) == "swordfish"


async def test_a_rotated_file_is_read_anew(tmp_path: Path) -> None:
    source = profile(f"file:{tmp_path}/secret")
    (tmp_path / "secret").write_text("old")
    assert await resolve_password(source, {}) == "old"
    (tmp_path / "secret").write_text("new ")
    assert await resolve_password(source, {}) == "new "


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read: No such file"),
        (b"\n", "is empty"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"x" * (LONGEST_SECRET + 1), "too long"),
        (b"a\0b", "zero byte"),
    ],
    ids=["missing", "empty", "binary", "long", "zero"],
)
async def test_a_file_without_a_password_is_named(tmp_path: Path, content: bytes | None, problem: str) -> None:
    if content is not None:
        (tmp_path / "secret").write_bytes(content)
    with pytest.raises(ConfigError, match=problem) as caught:
        await resolve_password(profile(f"file:{tmp_path}/secret"), {})
    assert caught.value.profile == "local"


async def test_a_pipe_is_refused_rather_than_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="is not a plain file"):
        await resolve_password(profile(f"file:{tmp_path}/pipe"), {})


@pytest.mark.parametrize(
    "source",
    [profile("keyvault:pw"), profile(None, azure=AzureSettings(use_ad=True))],
    ids=["key vault", "entra"],
)
async def test_what_is_not_built_yet_says_so(source: Profile) -> None:
    with pytest.raises(ConfigError, match="not in this version yet") as caught:
        await resolve_password(source, {"PGPASSWORD": "x"})
    assert caught.value.profile == "local"
