"""Root's embedded Postgres: it runs as another user, for whom no folder is opened, and whom no stranger can hold up."""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import are_gone, processes_below
from tests.integration.test_embedded import copy, remember, remembered
from tidelog.errors import EmbeddedPostgresError
from tidelog.postgres import os_user, place, reach
from tidelog.postgres.embedded import EmbeddedPostgres

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="it is about root")

LOCKS = ("turn.lock", "holders.lock")
OPEN = "import os, sys; os.open(sys.argv[1], os.O_RDONLY)"
CREATE = "import sys; open(sys.argv[1], 'w')"


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def as_nobody(program: str, path: Path) -> str:
    """Run a Python program as a user without rights; returns what went wrong. (Its path is the tests' own.)"""
    nobody = pwd.getpwnam("nobody")

    def become_nobody() -> None:
        os.setgroups([])
        os.setgid(nobody.pw_gid)
        os.setuid(nobody.pw_uid)

    if (pid := os.fork()) == 0:
        try:
            become_nobody()
            sys.argv = ["", str(path)]
            exec(program, {})  # noqa: S102 - of ours; the interpreter may be root's alone
        except OSError as error:
            os._exit(error.errno or 255)
        os._exit(0)
    return os.strerror(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def set_mode(path: Path, mode: int) -> None:
    path.chmod(mode)


def found(folder: Path, pattern: str = "*/") -> list[Path]:
    return sorted(folder.glob(pattern))


@pytest.fixture
def folder() -> Iterator[Path]:
    """Everybody may pass through it."""
    folder = Path(tempfile.mkdtemp(prefix="tidelog-root-")).resolve()
    folder.chmod(0o711)
    yield folder
    all_gone = are_gone(folder)
    for process in processes_below(folder):
        process.kill()
    shutil.rmtree(folder)
    assert all_gone, "a Postgres was left running"


@pytest.fixture(autouse=True)
def roots(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What /var/lib/tidelog is elsewhere."""
    roots = folder / "roots"
    monkeypatch.setattr(reach, "ROOTS_FOLDER", roots)
    monkeypatch.setattr(place, "ROOTS_FOLDER", roots)
    return roots


@pytest.fixture
def home(folder: Path) -> Path:
    """As root's: only its owner can enter. There is a project in it."""
    home = folder / "home"
    (home / "chat").mkdir(parents=True)
    home.chmod(0o700)
    return home


async def test_no_folder_above_the_data_is_opened(home: Path, roots: Path) -> None:
    """The data is elsewhere, where it is found again, and where nobody else gets to."""
    data_dir = home / "chat" / ".tidelog"
    embedded = EmbeddedPostgres(data_dir)
    await remember(embedded.start(), "tide")
    embedded.stop()
    assert (mode_of(home), mode_of(home / "chat")) == (0o700, 0o755)
    data = (data_dir / "postgres").resolve()
    assert data.parent.parent == roots and data.parent.name.startswith("chat-")
    assert (mode_of(roots), mode_of(data.parent), mode_of(data)) == (0o755, 0o710, 0o700)

    again = EmbeddedPostgres(data_dir)
    assert await remembered(again.start()) == ["tide"]
    again.stop()
    # Beside the server's programs, where its user can't reach ours.
    assert [folder for folder in found(roots) if not folder.name.startswith("programs-")] == [data.parent]


async def test_a_copied_project_shares_the_server_and_its_locks(home: Path, roots: Path) -> None:
    """The link is copied, the data is not: it runs until both have let go. A project that was moved finds its data."""
    first = EmbeddedPostgres(home / "chat" / ".tidelog")
    url = first.start()
    second = EmbeddedPostgres(copy(home / "chat", home / "copy") / ".tidelog")
    assert second.start() == url
    first.stop()
    await remember(url, "still there")
    second.stop()
    assert are_gone(roots)
    (home / "chat").rename(home / "moved")
    moved = EmbeddedPostgres(home / "moved" / ".tidelog")
    assert await remembered(moved.start()) == ["still there"]
    moved.stop()


async def test_data_that_can_be_reached_is_where_it_was_asked_for(folder: Path) -> None:
    """Also in a folder of its own that nobody else may enter: Postgres's user alone is let in. And so at each start."""
    for name, before, after in (("open", 0o755, 0o755), ("own", 0o700, 0o710)):
        data_dir = folder / name
        data_dir.mkdir(mode=before)
        embedded = EmbeddedPostgres(data_dir)
        await remember(embedded.start(), name)
        embedded.stop()
        assert not (data_dir / "postgres").is_symlink()
        assert mode_of(data_dir) == after
        assert await remembered(embedded.start()) == [name]
        embedded.stop()


async def test_data_behind_a_folder_that_was_closed_is_not_forgotten(home: Path, roots: Path) -> None:
    """No empty database is made elsewhere; the message names the folder, and nothing is opened. Opened, it is there."""
    set_mode(home, 0o711)
    embedded = EmbeddedPostgres(home / "chat" / "data")
    await remember(embedded.start(), "tide")
    embedded.stop()
    set_mode(home, 0o700)
    with pytest.raises(EmbeddedPostgresError, match=f"may not pass through {home} "):
        embedded.start()
    assert mode_of(home) == 0o700 and not found(roots, "chat*")
    set_mode(home, 0o711)
    assert await remembered(embedded.start()) == ["tide"]
    embedded.stop()


def test_data_that_is_gone_is_told(home: Path) -> None:
    """A link that leads nowhere is no reason to begin anew in silence."""
    embedded = EmbeddedPostgres(home / "chat" / ".tidelog")
    embedded.start()
    embedded.stop()
    shutil.rmtree((home / "chat" / ".tidelog" / "postgres").resolve().parent)
    with pytest.raises(EmbeddedPostgresError, match="which is gone: bring it back"):
        embedded.start()


def test_data_does_not_leave_a_volume(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's next life has the volume, and nothing of /var/lib: it is told to be mounted elsewhere."""
    volume = home / "chat" / ".tidelog"
    monkeypatch.setattr(
        Path, "is_mount", lambda self: self == volume
    )  # mounting takes more than a container's root may
    with pytest.raises(EmbeddedPostgresError, match=f"stay on the volume {volume}: mount it"):
        EmbeddedPostgres(volume).start()


async def test_programs_out_of_reach_are_copied(home: Path, roots: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A virtual environment in root's home, made under a strict umask, stays as it is."""
    packages = home / "packages"
    shutil.copytree(os_user.INSTALL, packages / os_user.INSTALL.relative_to(os_user.SITE_PACKAGES))
    shutil.copytree(os_user.LIBRARIES, packages / os_user.LIBRARIES.relative_to(os_user.SITE_PACKAGES))
    for name in ("INSTALL", "LIBRARIES", "BIN"):
        monkeypatch.setattr(os_user, name, packages / getattr(os_user, name).relative_to(os_user.SITE_PACKAGES))
    monkeypatch.setattr(os_user, "SITE_PACKAGES", packages)
    (os_user.BIN / "postgres").chmod(0o700)
    embedded = EmbeddedPostgres(home / "chat" / ".tidelog")
    await remember(embedded.start(), "tide")
    embedded.stop()
    assert await remembered(embedded.start()) == ["tide"]
    embedded.stop()
    assert (mode_of(home), mode_of(os_user.BIN / "postgres")) == (0o700, 0o700)
    (copied,) = found(roots, "programs*")
    assert not [path for path in found(copied, "**/*") if not path.is_symlink() and mode_of(path) & 0o022]


def test_nobody_else_can_hold_a_lock(folder: Path) -> None:
    """Who can open a file can lock it, and have everybody wait. Lock files of before are closed, too."""
    data_dir = folder / "data"
    data_dir.mkdir()
    for name in LOCKS:
        (data_dir / name).touch(0o666)
    embedded = EmbeddedPostgres(data_dir)
    embedded.start()
    for name in LOCKS:
        assert mode_of(data_dir / name) == 0o600
        assert as_nobody(OPEN, data_dir / name) == "Permission denied"
    embedded.stop()


def test_what_a_stranger_put_in_a_locks_place_is_told(folder: Path) -> None:
    """A file of theirs could be held for ever; a link would have root open, or close, another file."""
    data_dir = folder / "shared"
    data_dir.mkdir()
    data_dir.chmod(0o1777)
    assert as_nobody(CREATE, data_dir / "turn.lock") == "Success"
    with pytest.raises(EmbeddedPostgresError, match=r"turn\.lock should be a lock file that nobody else can open"):
        EmbeddedPostgres(data_dir).start()
    precious = folder / "precious"
    precious.touch(0o644)
    for put in (Path.symlink_to, Path.hardlink_to):
        (data_dir / "turn.lock").unlink()
        put(data_dir / "turn.lock", precious)
        with pytest.raises(EmbeddedPostgresError, match=r"turn\.lock"):
            EmbeddedPostgres(data_dir).start()
        assert mode_of(precious) == 0o644


def test_a_stranger_does_not_keep_the_user_from_being_made(roots: Path) -> None:
    """Anybody can lock /etc."""
    etc = os.open("/etc", os.O_RDONLY)
    try:
        fcntl.flock(etc, fcntl.LOCK_EX)
        with os_user._one_process_at_a_time():
            assert as_nobody(OPEN, roots / "user.lock") == "Permission denied"
    finally:
        os.close(etc)


def test_the_locks_of_anothers_data_are_that_users(folder: Path) -> None:
    """Root, coming to it, doesn't lock its owner out."""
    data_dir = folder / "data"
    data_dir.mkdir()
    nobody = pwd.getpwnam("nobody")
    os.chown(data_dir, nobody.pw_uid, nobody.pw_gid)
    (data_dir / "postgres").mkdir()
    os.chown(data_dir / "postgres", nobody.pw_uid, nobody.pw_gid)
    (data_dir / "postgres").chmod(0o700)
    embedded = EmbeddedPostgres(data_dir)
    embedded.start()
    embedded.stop()
    assert {(data_dir / name).stat().st_uid for name in (*LOCKS, "postgres")} == {nobody.pw_uid}
