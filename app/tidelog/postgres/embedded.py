"""The embedded Postgres, for those who have no server: shared by the processes that hold on to it.

Knows who holds it, and nothing of how Postgres runs (cluster.py does).
"""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
from contextlib import AbstractContextManager
from pathlib import Path

from tidelog.errors import EmbeddedPostgresError
from tidelog.postgres.cluster import SUPERUSER, Cluster
from tidelog.postgres.locks import locked, open_lock
from tidelog.postgres.os_user import BIN, check_owner, is_roots, owner_of
from tidelog.postgres.place import DATA, HOLDERS_LOCK, TURN_LOCK, home_of

DATABASE = "tidelog"
TURN_TIMEOUT_SECONDS = 300  # longer than any start or stop that another process may be in


class EmbeddedPostgres:
    """One hold on the server whose data is in `<data_dir>/postgres`, or where a link there leads (place.py).

    The first hold starts the server, the last one to go stops it. A hold is a lock on a file, which the
    kernel takes from a process that is killed: a server that such a one left behind is used by the next
    hold, and stopped after the last.
    """

    def __init__(self, data_dir: Path, *, is_durable: bool = True) -> None:
        """Not `is_durable`: a crash of the whole machine may cost all data (not one of the server). For tests."""
        self._data_dir = data_dir.expanduser().resolve()
        self._is_durable = is_durable
        self._hold: int | None = None

    def start(self) -> str:
        """Take hold, and return the libpq URL of database `tidelog`, made if missing. Blocks.

        Raises EmbeddedPostgresError, with nothing left running that was not running before.
        """
        if self._hold is not None:
            raise RuntimeError("this hold on the embedded Postgres is taken already")
        self._home = home_of(self._data_dir)
        self._cluster = Cluster(self._home / DATA, is_durable=self._is_durable)
        with self._turn():
            self._hold = self._open_lock(HOLDERS_LOCK)
            try:
                fcntl.flock(self._hold, fcntl.LOCK_SH)
                socket_folder = self._cluster.ensure_running()
                try:
                    self._cluster.ensure_database(DATABASE)
                except EmbeddedPostgresError:
                    if self._cluster.is_running:
                        raise
                    # It had been killed, and was only about to be gone when we looked.
                    socket_folder = self._cluster.ensure_running()
                    self._cluster.ensure_database(DATABASE)
            except BaseException:
                self._let_go()
                raise
        atexit.register(self.stop)
        return f"postgresql://{SUPERUSER}@/{DATABASE}?host={socket_folder}"

    def stop(self) -> None:
        """Let go; the last one stops the server. Blocks. Nothing happens without a hold."""
        if self._hold is None:
            return
        atexit.unregister(self.stop)
        with self._turn():
            self._let_go()

    def stop_abandoned(self) -> bool:
        """Stop the server that killed processes left running, if it runs; False if somebody holds on to it. Blocks."""
        if self._hold is not None:
            return False
        self._home = home_of(self._data_dir)
        self._cluster = Cluster(self._home / DATA, is_durable=self._is_durable)
        with self._turn():
            holders = self._open_lock(HOLDERS_LOCK)
            try:
                fcntl.flock(holders, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._cluster.stop()
            except BlockingIOError:
                return False
            finally:
                os.close(holders)
        return True

    @property
    def home(self) -> Path:
        """The folder that has the data: `data_dir`, or where a link in it leads. Raises EmbeddedPostgresError."""
        return home_of(self._data_dir)

    @property
    def psql(self) -> str:
        """The command psql: the machine's, or the one that came with this server."""
        return "psql" if shutil.which("psql") else str(BIN / "psql")

    def _open_lock(self, name: str) -> int:
        """A lock for those who may run this server: the data's owner, and root. Raises EmbeddedPostgresError."""
        data = self._home / DATA
        check_owner(data)
        owner = owner_of(data)
        try:
            return open_lock(self._home / name, 0 if is_roots(owner) else owner)
        except OSError as error:
            raise EmbeddedPostgresError(
                f"{self._home / name} can't be used for the embedded Postgres ({error}): "
                "remove it, or set TIDELOG_DATA_DIR to a folder that can be written"
            ) from error

    def _let_go(self) -> None:
        assert self._hold is not None  # noqa: S101 - both callers have it
        try:
            fcntl.flock(self._hold, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # others hold it
        else:
            self._cluster.stop()
        finally:
            os.close(self._hold)
            self._hold = None

    def _turn(self) -> AbstractContextManager[None]:
        """Nobody else starts or stops this server meanwhile."""
        return locked(
            self._open_lock(TURN_LOCK),
            TURN_TIMEOUT_SECONDS,
            f"another process has been starting or stopping the embedded Postgres in {self._home} "
            f"for {TURN_TIMEOUT_SECONDS} s: find it (`fuser {self._home / TURN_LOCK}`) and end it",
        )
