"""A disk that is full below the commits' numbers, or below the log."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from tests.harness import RUN
from tests.integration.sequencer_fixtures import WAIT_SECONDS, Log, sequencing

TABLESPACE = f"tiny_{RUN}"


@pytest.fixture
async def log(database_url: str) -> AsyncIterator[Log]:
    async with Log.open(database_url) as log:
        await log.writer.execute("set synchronous_commit = off")  # a hundred commits fill a page: not at a disk's pace
        yield log


@pytest.fixture
async def tiny_tablespace(log: Log, tmp_path: Path) -> AsyncIterator[Path]:
    """A tablespace of a megabyte; the folder it is in."""
    data = Path(await log.observer.fetchval("show data_directory"))
    folder = await asyncio.to_thread(mount_tiny, data)
    await log.writer.execute(f"create tablespace {TABLESPACE} location '{folder}'")
    try:
        yield folder
    finally:
        partitions = await log.writer.fetch("select partition::text from streams.partitions()")
        for table in ("streams.commit", *(row["partition"] for row in partitions)):
            await log.writer.execute(f"alter table {table} set tablespace pg_default")
        await log.writer.execute(f"drop tablespace {TABLESPACE}")
        # Lazily: some process of Postgres's may have a file open that is removed already.
        await asyncio.to_thread(subprocess.run, ["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


def mount_tiny(data: Path) -> Path:
    folder = Path(f"/mnt/tidelog-test-{RUN}")
    try:
        owner = data.stat()
        folder.mkdir()
        options = f"size=1m,uid={owner.st_uid},gid={owner.st_gid},mode=700"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        with contextlib.suppress(OSError):
            folder.rmdir()
        pytest.skip(f"a small file system can't be mounted here, or the server is elsewhere: {error}")
    return folder


def fill(folder: Path) -> Path:
    """Leave no space; returns the file to remove."""
    path = folder / "filler"
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as filler:
        while filler.write(b"x" * 4096):
            pass
    return path


async def test_a_full_disk_below_the_numbers(log: Log, database_url: str, tiny_tablespace: Path) -> None:
    """Writers go on; what they commit gets its numbers when there is space."""
    await log.writer.execute(f"alter table streams.commit set tablespace {TABLESPACE}")
    with sequencing(database_url) as thread:
        await log.write_numbered("before")
        filler = await asyncio.to_thread(fill, tiny_tablespace)
        async with asyncio.timeout(WAIT_SECONDS):
            written = 0
            while "DiskFullError" not in (thread.sequencer.trouble or ""):
                await log.write(f"{written}")
                written += 1
        await asyncio.to_thread(filler.unlink)
        assert await log.write_numbered("after") == written + 2
    await log.check()


async def test_a_full_disk_below_the_log(log: Log, database_url: str, tiny_tablespace: Path) -> None:
    """Writers fail, and nothing of theirs is numbered; what was committed before is."""
    for row in await log.writer.fetch("select partition::text from streams.partitions()"):
        await log.writer.execute(f"alter table {row['partition']} set tablespace {TABLESPACE}")
    with sequencing(database_url):
        await log.write_numbered("before")
        filler = await asyncio.to_thread(fill, tiny_tablespace)
        written = 0
        with pytest.raises(asyncpg.DiskFullError):
            while True:
                await log.write(f"{written}")
                written += 1
        await asyncio.to_thread(filler.unlink)
        assert await log.write_numbered("after") == written + 2
    await log.check()
