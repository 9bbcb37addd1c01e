"""Files to be locked, which only those who may take the lock can open: who can open one can hold it for ever."""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tidelog.errors import EmbeddedPostgresError

POLL_SECONDS = 0.05


def open_lock(path: Path, owner: int) -> int:
    """Open the file, made if missing, and have it be `owner`'s alone. Root can open it as well.

    Raises EmbeddedPostgresError if somebody else has put something in its place, and OSError.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    try:
        found = os.fstat(descriptor)
        # A second name of the file might be one of another program's, whose permissions must stay.
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1 or found.st_uid not in (os.geteuid(), owner):
            raise EmbeddedPostgresError(f"{path} should be a lock file that nobody else can open, but isn't: remove it")
        if found.st_uid != owner:
            os.fchown(descriptor, owner, -1)
        if stat.S_IMODE(found.st_mode) != 0o600:
            os.fchmod(descriptor, 0o600)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def locked(descriptor: int, timeout_seconds: float, trouble: str) -> Iterator[None]:
    """Have the lock of this open file alone, and close it at the end.

    Raises EmbeddedPostgresError, saying `trouble`, if another process has it for too long.
    """
    try:
        deadline = time.monotonic() + timeout_seconds
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise EmbeddedPostgresError(trouble) from error
                time.sleep(POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)
