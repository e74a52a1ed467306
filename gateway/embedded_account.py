"""Under which account a throw-away server runs, and what that account needs: PostgreSQL refuses to run as root.

Whether an account can do something is tried, as that account, never concluded from file modes: there are access
lists, mount options and user name spaces.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gateway.embedded_binaries import PROGRAMS, Binaries
from gateway.errors import ConfigError

PREFERRED = "nobody"
_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - only a random, private folder is made inside
_MOST_ACCOUNTS = 20  # enough to meet one that works; a directory service may list thousands


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    name: str
    uid: int
    gid: int

    def can_run(self, *argv: str) -> bool:
        """Run a program as this account and return whether that worked (blocking, 10 s at most)."""
        try:
            subprocess.run(  # noqa: S603 - our own argument lists
                argv,
                user=self.uid,
                group=self.gid,
                extra_groups=[],
                cwd="/",
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=True,
                timeout=10,
            )
        except (OSError, ValueError, subprocess.SubprocessError):
            return False
        return True

    def own(self, path: Path) -> None:
        os.chown(path, self.uid, self.gid)


def choose_account() -> Account | None:
    """Return the account to drop to, or None where this process is not root and can stay what it is.

    Raises ConfigError where root cannot become anybody else.
    """
    if os.geteuid() != 0:
        return None
    for account in _accounts():
        if account.can_run("/bin/sh", "-c", ":"):
            return account
    raise ConfigError(
        ["PostgreSQL refuses to run as root, and no other account can be used here"],
        hint=f"start this as an ordinary user, or add an account named {PREFERRED}",
    )


def _accounts() -> Iterator[Account]:
    import pwd  # not on Windows, where the clear refusal of `find_binaries` must come first

    entries = [entry for entry in pwd.getpwall() if entry.pw_uid != 0]
    entries.sort(key=lambda entry: entry.pw_name != PREFERRED)
    for entry in entries[:_MOST_ACCOUNTS]:
        yield Account(name=entry.pw_name, uid=entry.pw_uid, gid=entry.pw_gid)


def choose_folder(account: Account | None) -> str:
    """Return the folder for temporary files that the account can enter; raises ConfigError where there is none."""
    usual = tempfile.gettempdir()
    if account is None:
        return usual
    for folder in (usual, *_FOLDERS):
        if Path(folder).is_dir() and account.can_run("/bin/sh", "-c", 'cd "$0"', folder):
            return folder
    raise ConfigError(
        [f"the account {account.name} can enter no folder for temporary files, not even {usual}"],
        hint="set TMPDIR to a folder that every account can enter",
    )


def reachable_programs(binaries: Binaries, account: Account | None, *, copy_to: Path) -> Path:
    """Return a folder from which the account can run the programs, after copying them to `copy_to` if need be.

    Copied are 30 to 50 MB, typically out of a virtual environment below root's private home.
    """
    if account is None or _can_run_all(account, binaries.folder):
        return binaries.folder
    home = binaries.folder.parent
    copy = copy_to / home.parent.name / home.name
    (copy / "bin").mkdir(parents=True)
    for program in PROGRAMS:
        shutil.copy2(binaries.folder / program, copy / "bin" / program)
    for part in ("lib", "lib64", "share"):
        _copy_tree(home / part, copy / part)
    # A wheel's libraries lie beside its package, and are found by the way from the program: so the way is kept.
    bundled = f"{home.parent.name}.libs"
    _copy_tree(home.parent.parent / bundled, copy_to / bundled)
    for path in (copy_to, *copy_to.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
    if not _can_run_all(account, copy / "bin"):
        raise ConfigError(
            [f"the account {account.name} can run neither the PostgreSQL in {binaries.folder} nor a copy of it"],
            hint="install PostgreSQL where every account can run it, or start this as an ordinary user",
        )
    return copy / "bin"


def _can_run_all(account: Account, folder: Path) -> bool:
    return all(account.can_run(str(folder / program), "--version") for program in PROGRAMS)


def _copy_tree(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("*.a", "pkgconfig"))
