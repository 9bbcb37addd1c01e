"""Where the embedded server has its data and its locks.

As root it runs as another user (os_user.py), who can't pass through a folder such as /root. No folder is opened for
that user: the data is put where it can be reached, and a link in the data directory leads to it.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path

from tidelog.errors import EmbeddedPostgresError
from tidelog.postgres.os_user import ROOTS_OS_USER, OsUser, roots_os_user
from tidelog.postgres.reach import ROOTS_FOLDER, closed_folders, roots_folder

DATA = "postgres"
TURN_LOCK = "turn.lock"
HOLDERS_LOCK = "holders.lock"
OURS = frozenset({DATA, f"{DATA}.new", TURN_LOCK, HOLDERS_LOCK})  # all that Tidelog has in a data directory
NAME_LENGTH_MAX = 32  # of the project in the name of its folder: the path of a socket in there has to be short

logger = logging.getLogger("tidelog.postgres")


def home_of(data_dir: Path) -> Path:
    """The folder of the data, which is `postgres` in it, and of the locks: `data_dir`, or one of root's own.

    Also a copy of `data_dir` has the link, and so leads to the one server and its locks. Raises EmbeddedPostgresError.
    """
    data = data_dir / DATA
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0 and not os.path.lexists(data):
            _find_place(data)
        home = data.resolve().parent
    except OSError as error:
        raise EmbeddedPostgresError(
            f"{data_dir} can't be used for the embedded Postgres ({error}): "
            "set TIDELOG_DATA_DIR to a folder that can be written"
        ) from error
    if home.parent != ROOTS_FOLDER.resolve():
        return data_dir
    if not home.exists():
        raise EmbeddedPostgresError(
            f"the data of {data_dir} is in {home}, which is gone: bring it back, or remove {data} to begin anew"
        )
    return home


def _find_place(data: Path) -> None:
    """Leave the data to be made where it was asked for, if its user will get there; else link to another place."""
    account = roots_os_user()
    assert account.uid is not None and account.gid is not None  # noqa: S101 - it is a user's
    closed = closed_folders(data, account.uid, account.gid)
    if closed and closed[0] == data.parent and _let_in(data.parent, account):
        closed = closed[1:]
    if not closed:
        return
    if volume := next((folder for folder in _below(closed[-1], data) if folder.is_mount()), None):
        raise EmbeddedPostgresError(
            f"Postgres runs as {ROOTS_OS_USER}, who may not pass through {closed[-1]}, and the data is to stay on "
            f"the volume {volume}: mount it where everybody may pass, and set TIDELOG_DATA_DIR to that"
        )
    project = re.sub(r"[^A-Za-z0-9]+", "-", data.parent.parent.name).strip("-")[:NAME_LENGTH_MAX]
    home = Path(tempfile.mkdtemp(prefix=f"{project or 'data'}-", dir=roots_folder()))
    account.let_pass(home)
    try:
        data.symlink_to(home.resolve() / DATA)
    except FileExistsError:
        home.rmdir()  # another process did the same at the same time
        return
    logger.warning(
        "embedded Postgres: its user %s may not pass through %s, so the data is in %s, and %s leads there",
        ROOTS_OS_USER,
        closed[-1],
        home,
        data,
    )


def _let_in(folder: Path, account: OsUser) -> bool:
    """Let the account's group, and nobody else, into a folder of root's that has nothing but what is Tidelog's."""
    found = folder.stat()
    if found.st_uid != 0 or found.st_mode & 0o077 or not {entry.name for entry in folder.iterdir()} <= OURS:
        return False
    account.let_pass(folder)
    return True


def _below(closed: Path, data: Path) -> list[Path]:
    """The data directory, and the folders between it and `closed`."""
    between = []
    with suppress(ValueError):
        between = [folder for folder in data.parents if folder.relative_to(closed) != Path()]
    return between or [data.parent]
