"""Configurations for tests: a file's text and an environment in, a `Config` or its faults out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from gateway.config import Config, load_config
from gateway.errors import ConfigError
from gateway.profiles import Profile


def load(folder: Path, text: str | None = None, environ: Mapping[str, str] | None = None) -> Config:
    """Load `text` as the profiles.toml of the working folder `folder`; the user's is `folder/user`."""
    if text is not None:
        (folder / "profiles.toml").write_text(text)
    return load_config(None, environ or {}, cwd=folder, user_config_dir=folder / "user")


def faults(folder: Path, text: str | None = None, environ: Mapping[str, str] | None = None) -> list[str]:
    """Return the faults of what `load` would load."""
    with pytest.raises(ConfigError) as caught:
        load(folder, text, environ)
    return caught.value.faults


def one(folder: Path, keys: str, environ: Mapping[str, str] | None = None) -> Profile:
    """Return the profile `x` with these keys and the user `u`."""
    return load(folder, f'[profiles.x]\nuser = "u"\n{keys}\n', environ).profiles["x"]
