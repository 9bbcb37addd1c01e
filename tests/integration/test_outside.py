"""Streams in programs that are no server: `tidelog.open`."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import asyncpg
import pytest
from pydantic import BaseModel, field_validator

import tidelog
from tidelog import ItemInvalidError, Stream, StreamUnknownError, TidelogConfig
from tidelog.errors import DatabaseUnavailableError

FREE = "forbidden by a validator, not by the schema"


class Job(BaseModel):
    title: str

    @field_validator("title")
    @classmethod
    def _check(cls, title: str) -> str:
        if title == FREE:
            raise ValueError(FREE)
        return title


JOB = Stream("job", Job)


@pytest.fixture
def tidelog_config() -> TidelogConfig:
    return TidelogConfig(streams=[JOB])


@pytest.fixture
def url(tidelog_database_url: str) -> str:
    """A database of the test's own, which has the stream."""
    return tidelog_database_url


async def commits(url: str) -> list[int]:
    """How many changes each transaction made, in order."""
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch("select count(*) from streams.change group by xid order by min(seq)")
        return [row[0] for row in rows]
    finally:
        await connection.close()


async def test_each_operation_commits_and_a_transaction_is_one_commit(url: str) -> None:
    """Also when they run at once; what an exception leaves was never there."""
    async with tidelog.open(url) as streams:
        await asyncio.gather(*(streams.job.set("all", str(n), {"title": "at once"}) for n in range(10)))
        assert await commits(url) == [1] * 10
        async with streams.transaction() as together:
            await together.job.set("all", "10", {"title": "together"})
            await together["job"].delete("all", "0")
        assert await commits(url) == [*[1] * 10, 2]
        with pytest.raises(ZeroDivisionError):
            async with streams.transaction() as together:
                await together.job.set("all", "11", {"title": "never"})
                raise ZeroDivisionError
        assert await commits(url) == [*[1] * 10, 2]
        assert {item["id"] for item in await streams.job.get_group("all")} == set(map(str, range(1, 11)))


async def test_items_are_checked_as_far_as_the_schema_is_known(url: str) -> None:
    """The database knows JSON Schema; a class's validators come with the stream."""
    async with tidelog.open(url) as streams:
        with pytest.raises(ItemInvalidError, match="title"):
            await streams.job.set("all", "1", {"titel": "misspelt"})
        await streams.job.set("all", "1", {"title": FREE})
        with pytest.raises(StreamUnknownError, match="job"):
            streams.jobs  # noqa: B018
    async with tidelog.open(url, [JOB]) as streams:
        with pytest.raises(ItemInvalidError, match="forbidden by a validator"):
            await streams.job.set("all", "2", {"title": FREE})


async def test_a_program_goes_on_after_its_connection_was_lost(url: str) -> None:
    """One operation may fail; the next has another connection."""
    async with tidelog.open(url) as streams:
        await streams.job.set("all", "1", {"title": "before"})
        connection = await asyncpg.connect(url)
        await connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and pid <> pg_backend_pid()"
        )
        await connection.close()
        with suppress(DatabaseUnavailableError):  # it may be this one that finds out
            await streams.job.get("all", "1")
        assert await streams.job.get("all", "1") == {"id": "1", "title": "before"}


async def test_an_item_may_be_as_large_as_a_steps(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the same setting, which the database is told of."""
    monkeypatch.setenv("TIDELOG_BODY_SIZE_MAX_BYTES", "4000000")
    async with tidelog.open(url) as streams:
        await streams.job.set("all", "1", {"title": "x" * 3_000_000})
        async with streams.transaction() as together:
            await together.job.send({"groupId": "all"}, {"type": "large", "data": "x" * 3_000_000})


async def test_a_call_that_is_not_awaited_is_an_error(url: str) -> None:
    """In a transaction nothing of it is stored; else it is told at the end."""
    with pytest.raises(RuntimeError, match="not awaited: set"):
        async with tidelog.open(url) as streams, streams.transaction() as together:
            await together.job.set("all", "1", {"title": "awaited"})
            together.job.set("all", "2", {"title": "forgotten"})
    assert await commits(url) == []
    with pytest.raises(RuntimeError, match="not awaited: set"):
        async with tidelog.open(url) as streams:
            await streams.job.set("all", "1", {"title": "awaited"})
            streams.job.set("all", "2", {"title": "forgotten"})
    assert await commits(url) == [1]
