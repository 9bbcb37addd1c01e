"""Where the embedded Postgres of a test run has its folder: in memory, if there is enough of it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tidelog.testing import postgres

pytestmark = pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="it is in memory on Linux only")


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for the file system in memory: another folder, which has room for a byte."""
    folder = tmp_path / "memory"
    folder.mkdir()
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(postgres, "IN_MEMORY", folder)
    monkeypatch.setattr(postgres, "MEMORY_BYTES", 1)
    monkeypatch.delenv("TMPDIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    return folder


def test_it_is_in_memory_where_there_is_enough(memory: Path) -> None:
    folder = postgres.folder_of_run()
    assert folder.parent == memory
    assert folder.stat().st_mode & 0o777 == 0o700


def test_where_memory_is_short_it_is_in_the_temporary_folder(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "MEMORY_BYTES", 2**60)
    assert postgres.folder_of_run().parent == Path(tempfile.gettempdir())


def test_where_there_is_no_memory_it_is_in_the_temporary_folder(memory: Path) -> None:
    memory.rmdir()
    assert postgres.folder_of_run().parent == Path(tempfile.gettempdir())


def test_a_temporary_folder_that_is_asked_for_is_taken(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", tempfile.gettempdir())
    assert postgres.folder_of_run().parent == Path(tempfile.gettempdir())


def test_all_processes_of_a_run_use_the_folder_of_the_first(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it has filled the memory since."""
    first = postgres.folder_of_run()
    monkeypatch.setattr(postgres, "MEMORY_BYTES", 2**60)
    assert postgres.folder_of_run() == first
