"""Which folders a user can pass through; and one of root's that everybody can, for what root's server has to reach."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from tidelog.errors import EmbeddedPostgresError

ROOTS_FOLDER = Path("/var/lib/tidelog")


def closed_folders(path: Path, uid: int, gid: int) -> list[Path]:
    """Those above `path` that a user without other groups may not pass through, the nearest first."""
    closed = []
    for folder in path.parents:
        found = folder.stat()
        needed = stat.S_IXUSR if found.st_uid == uid else stat.S_IXGRP if found.st_gid == gid else stat.S_IXOTH
        if not found.st_mode & needed:
            closed.append(folder)
    return closed


def roots_folder() -> Path:
    """Root's own folder, made if missing; nobody else can write to it. Raises EmbeddedPostgresError, and OSError."""
    try:
        ROOTS_FOLDER.mkdir()
        ROOTS_FOLDER.chmod(0o755)  # whatever the umask
    except FileExistsError:
        pass
    found = ROOTS_FOLDER.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o022:
        raise EmbeddedPostgresError(
            f"{ROOTS_FOLDER} should be a folder that only root can write to, but isn't: remove it"
        )
    return ROOTS_FOLDER
