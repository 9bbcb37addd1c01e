"""The embedded Postgres: there when somebody needs it, gone when nobody does, whatever was killed before."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from tests.harness import ROOT, are_gone, processes_below
from tidelog.errors import EmbeddedPostgresError
from tidelog.postgres.embedded import EmbeddedPostgres

IS_ROOT = os.geteuid() == 0
HOLDER_TIMEOUT_SECONDS = 60

# Takes a hold, tells the URL, and lets go when its input ends.
HOLDER = """
import sys
from pathlib import Path
from tidelog.postgres.embedded import EmbeddedPostgres
embedded = EmbeddedPostgres(Path(sys.argv[1]))
print(embedded.start(), flush=True)
sys.stdin.read()
embedded.stop()
"""

# The same without root's rights. They are given up after the imports: the interpreter may be root's own.
PLAIN_HOLDER = """
import os, pwd, sys
from pathlib import Path
from tidelog.postgres import os_user
from tidelog.postgres.embedded import EmbeddedPostgres
if os.geteuid() == 0:
    nobody = pwd.getpwnam("nobody")
    os_user.BIN = os_user.programs_for(nobody.pw_uid, nobody.pw_gid)  # the checkout may be where only root can go
    os.setgroups([])
    os.setgid(nobody.pw_gid)
    os.setuid(nobody.pw_uid)
embedded = EmbeddedPostgres(Path(sys.argv[1]))
print(embedded.start(), flush=True)
sys.stdin.read()
embedded.stop()
"""


class Holder:
    """Another process that holds the server of a data directory, or is about to."""

    def __init__(self, data_dir: Path, script: str = HOLDER) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", script, str(data_dir)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def url(self) -> str:
        """The server's URL, once it holds it."""
        assert self.process.stdout is not None
        url = self.process.stdout.readline().strip()
        assert url, "the holder could not start; its traceback is in the output"
        return url

    def let_go(self) -> None:
        self.process.communicate(timeout=HOLDER_TIMEOUT_SECONDS)
        assert self.process.returncode == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=HOLDER_TIMEOUT_SECONDS)


def copy(data_dir: Path, target: Path) -> Path:
    """A copy with the same owners and permissions."""
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", str(data_dir), str(target)], check=True)
    return target


def postmaster_of(data_dir: Path) -> int:
    return int((data_dir / "postgres" / "postmaster.pid").read_text().splitlines()[0])


def socket_folder_of(url: str) -> Path:
    return Path(url.partition("?host=")[2])


async def remember(url: str, word: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute("create table if not exists word (word text)")
    await connection.execute("insert into word values ($1)", word)
    await connection.close()


async def remembered(url: str) -> list[str]:
    connection = await asyncpg.connect(url)
    try:
        return [row["word"] for row in await connection.fetch("select word from word")]
    finally:
        await connection.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that nobody else can list, not below pytest's, whose permissions other runs of pytest reset."""
    folder = Path(tempfile.mkdtemp(prefix="tidelog-embedded-")).resolve()
    folder.chmod(0o711)
    yield folder
    all_gone = are_gone(folder)
    for process in processes_below(folder):
        process.kill()
    shutil.rmtree(folder, ignore_errors=True)
    assert all_gone, "a Postgres was left running"


@pytest.fixture(scope="module")
def made_before() -> Iterator[Path]:
    """A data directory that a server has run on."""
    folder = Path(tempfile.mkdtemp(prefix="tidelog-embedded-")).resolve()
    embedded = EmbeddedPostgres(folder)
    embedded.start()
    embedded.stop()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def data_dir(folder: Path, made_before: Path) -> Path:
    """A data directory of the test's own; copied, because making one takes a second."""
    return copy(made_before, folder / "data")


async def test_data_is_there_at_the_next_start(folder: Path) -> None:
    """A new folder becomes a server with the database tidelog, and keeps what was stored."""
    embedded = EmbeddedPostgres(folder / "new" / "data")
    await remember(embedded.start(), "tide")
    embedded.stop()
    assert are_gone(folder)
    assert await remembered(embedded.start()) == ["tide"]
    embedded.stop()


async def test_the_last_one_to_go_stops_the_server(data_dir: Path) -> None:
    """Processes share one server; it serves until none of them holds it."""
    here, there = EmbeddedPostgres(data_dir), Holder(data_dir)
    url = there.url()
    assert here.start() == url
    there.let_go()
    await remember(url, "still there")
    here.stop()
    assert are_gone(data_dir)


async def test_two_holds_of_one_process_count_as_two(data_dir: Path) -> None:
    """scripts/serve and the app inside of it each take one; letting go twice is letting go once."""
    outer, inner = EmbeddedPostgres(data_dir), EmbeddedPostgres(data_dir)
    url = outer.start()
    inner.start()
    inner.stop()
    inner.stop()
    await remember(url, "still there")
    outer.stop()
    assert are_gone(data_dir)


def test_many_that_start_at_once_get_one_server(folder: Path) -> None:
    """Only one of them makes the data directory and starts the server."""
    holders = [Holder(folder / "new") for _ in range(4)]
    assert len({holder.url() for holder in holders}) == 1
    for holder in holders:
        holder.let_go()
    assert are_gone(folder)


def test_a_killed_holder_holds_no_longer(data_dir: Path) -> None:
    """The server that a process killed with -9 left running is used by the next one, and stopped after it."""
    killed = Holder(data_dir)
    killed.url()
    postmaster = postmaster_of(data_dir)
    killed.kill()
    assert psutil.pid_exists(postmaster)

    embedded = EmbeddedPostgres(data_dir)
    embedded.start()
    assert postmaster_of(data_dir) == postmaster
    embedded.stop()
    assert are_gone(data_dir)


async def test_it_starts_again_right_after_its_postmaster_was_killed(data_dir: Path) -> None:
    """Also while a backend computes and has not noticed; and what was committed is there."""
    embedded = EmbeddedPostgres(data_dir)
    url = embedded.start()
    await remember(url, "committed")
    busy = await asyncpg.connect(url)
    computing = asyncio.ensure_future(busy.fetchval("select count(*) from generate_series(1, 1000000000)"))
    observer = await asyncpg.connect(url)
    is_computing = "select exists (select from pg_stat_activity where starts_with(query, $1))"
    while not await observer.fetchval(is_computing, "select count(*) from generate_series"):
        pass  # each look is a round trip to the server
    os.kill(postmaster_of(data_dir), signal.SIGKILL)

    again = EmbeddedPostgres(data_dir)
    assert await remembered(again.start()) == ["committed"]
    with pytest.raises((asyncpg.PostgresError, OSError)):
        await computing
    observer.terminate()
    embedded.stop()
    again.stop()
    assert are_gone(data_dir)


def test_a_lock_file_with_somebody_elses_pid_is_nobodys(data_dir: Path) -> None:
    """After a restart of the machine a stale postmaster.pid may name any running program: here, this test."""
    lines = [str(os.getpid()), str(data_dir / "postgres"), "1700000000", "5432", str(data_dir), "", "1 2", "ready"]
    (data_dir / "postgres" / "postmaster.pid").write_text("\n".join(lines) + "\n")
    embedded = EmbeddedPostgres(data_dir)
    embedded.start()
    embedded.stop()
    assert are_gone(data_dir)


@pytest.mark.parametrize(
    "name",
    [
        "a space",
        "quotes ' and \"",
        "$(false) `false` $HOME",
        "a,comma?and&more#%20",
        "straße",
        "/".join(["d" * 60] * 5),
    ],
)
async def test_any_path_will_do(folder: Path, made_before: Path, name: str) -> None:
    """Where the data's path can't be a socket's, a folder of the owner's alone holds it, while the server runs."""
    data_dir = folder / name
    copy(made_before, data_dir)
    embedded = EmbeddedPostgres(data_dir)
    url = embedded.start()
    await remember(url, "tide")
    socket_folder = socket_folder_of(url)
    assert stat.S_IMODE(socket_folder.stat().st_mode) == 0o700
    embedded.stop()
    assert not socket_folder.exists() or socket_folder == data_dir / "postgres"
    assert are_gone(folder)


async def test_a_new_folder_with_an_awkward_name_will_do(folder: Path) -> None:
    """initdb, too, takes what a shell would not."""
    embedded = EmbeddedPostgres(folder / 'it\'s "new" $HOME')
    await remember(embedded.start(), "tide")
    embedded.stop()


async def test_a_plain_user_can_run_it(folder: Path) -> None:
    """Without root's rights, and without a user made for it."""
    data_dir = folder / "data"
    data_dir.mkdir()
    if IS_ROOT:
        nobody = pwd.getpwnam("nobody")
        os.chown(data_dir, nobody.pw_uid, nobody.pw_gid)
    holder = Holder(data_dir, PLAIN_HOLDER)
    await remember(holder.url(), "tide")
    assert (data_dir / "postgres").stat().st_uid == data_dir.stat().st_uid
    holder.let_go()
    assert are_gone(folder)

    # Root, coming later, leaves the data with its owner.
    embedded = EmbeddedPostgres(data_dir)
    assert await remembered(embedded.start()) == ["tide"]
    assert (data_dir / "postgres").stat().st_uid == data_dir.stat().st_uid
    embedded.stop()


async def test_by_tcp_nobody_is_trusted(folder: Path) -> None:
    """The socket's folder is the authentication. It listens nowhere else; should that be changed, nobody gets in."""
    embedded = EmbeddedPostgres(folder / "data")
    connection = await asyncpg.connect(embedded.start())
    assert await connection.fetchval("show listen_addresses") == ""
    rules = "select distinct auth_method from pg_hba_file_rules where type <> 'local'"
    assert [row["auth_method"] for row in await connection.fetch(rules)] == ["reject"]
    await connection.close()
    embedded.stop()


def test_a_start_that_fails_says_why_and_leaves_nothing(data_dir: Path) -> None:
    """The message has the end of the server's log; once mended, it starts."""
    settings = data_dir / "postgres" / "postgresql.conf"
    before = settings.read_text()
    settings.write_text(before + "\nnonsense = 1\n")
    embedded = EmbeddedPostgres(data_dir)
    with pytest.raises(EmbeddedPostgresError, match='unrecognized configuration parameter "nonsense"'):
        embedded.start()
    assert are_gone(data_dir)
    settings.write_text(before)
    embedded.start()
    embedded.stop()


def test_a_start_that_fails_after_the_server_runs_stops_it(data_dir: Path) -> None:
    """Here the database can't be made, because the templates to make it from are gone."""
    embedded = EmbeddedPostgres(data_dir)
    psql = [embedded.psql, embedded.start().replace("/tidelog?", "/postgres?"), "-qc"]
    subprocess.run([*psql, "drop database tidelog"], check=True)
    subprocess.run([*psql, "alter database template1 rename to elsewhere"], check=True)
    embedded.stop()
    with pytest.raises(EmbeddedPostgresError, match="template1"):
        embedded.start()
    assert are_gone(data_dir)


def test_a_half_made_data_directory_is_made_anew(folder: Path) -> None:
    """What a killed initdb left is not taken for data."""
    (folder / "postgres.new" / "base").mkdir(parents=True)
    embedded = EmbeddedPostgres(folder)
    embedded.start()
    embedded.stop()
    assert not (folder / "postgres.new").exists()


def test_a_folder_with_other_things_is_left_alone(folder: Path) -> None:
    """Nothing is removed to make room for a database."""
    (folder / "postgres").mkdir()
    (folder / "postgres" / "letters.txt").write_text("dear reader")
    with pytest.raises(EmbeddedPostgresError, match="not empty"):
        EmbeddedPostgres(folder).start()
    assert (folder / "postgres" / "letters.txt").read_text() == "dear reader"
