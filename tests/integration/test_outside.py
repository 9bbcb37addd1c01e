"""Streams in programs that are no server: `tidelog.open`."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import suppress
from pathlib import Path

import asyncpg
import pytest
from pydantic import BaseModel, field_validator
from sqlalchemy.engine import make_url

import tidelog
from tests.harness import RUN, Databases, free_port
from tidelog import (
    DatabaseUnavailableError,
    ItemConflictError,
    ItemInvalidError,
    NoConnectionError,
    Stream,
    StreamUnknownError,
    TidelogConfig,
    TidelogError,
)
from tidelog.errors import DatabaseUrlError, DeclarationError, GrantMissingError
from tidelog.migrate import upgrade
from tidelog.postgres.embedded import EmbeddedPostgres
from tidelog.settings import Settings

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


async def last_transaction(url: str) -> str:
    """As the history has it."""
    connection = await asyncpg.connect(url)
    try:
        return str(await connection.fetchval("select xid from streams.change order by seq desc limit 1"))
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


async def test_a_program_has_all_that_steps_can_do_with_items(url: str) -> None:
    """Each commits by itself, and loses nothing of what others do at once; together they are one commit."""
    up = [{"type": "increment", "path": "done"}, {"type": "set", "path": "title", "value": "t"}]
    async with tidelog.open(url) as streams:
        await asyncio.gather(*(streams.job.update("all", "1", up) for _ in range(30)))
        job = await streams.job.get("all", "1")
        assert job["done"] == job.version == 30
        async with streams.transaction() as together:
            with pytest.raises(ItemConflictError):
                await together.job.create("all", "1", job)
            await together.job.set("all", "1", {**job, "done": 0}, if_version=30)
            await together.job.patch("all", "1", [{"op": "add", "path": "/tags", "value": ["a"]}])
            assert [one["id"] for one in await together.job.query(where={"tags": {"contains": ["a"]}})] == ["1"]
            transaction = await together.transaction_id()
        assert await streams.transaction_id() is None  # each call is one
        assert transaction == await last_transaction(url)
        assert await streams.job.clear("all") == 1
        assert await streams.job.list_groups() == []
    assert await commits(url) == [*[1] * 30, 2, 1]


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


async def test_a_program_need_not_name_the_database_of_the_environment(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is told how to name one where there is none."""
    monkeypatch.delenv("TIDELOG_DATABASE_URL", raising=False)
    with pytest.raises(DatabaseUrlError, match=r"tidelog\.open\(url\), or set TIDELOG_DATABASE_URL"):
        async with tidelog.open():
            pass
    with pytest.raises(DatabaseUrlError, match=r"the database URL \(tidelog\.open\) begins with mysql://"):
        async with tidelog.open("mysql://h/d"):
            pass
    with pytest.raises(DeclarationError, match=r"tidelog\.open has 'job'.* write \[Stream\('job', \.\.\.\)\]"):
        async with tidelog.open(url, ["job"]):  # type: ignore[list-item]
            pass
    monkeypatch.setenv("TIDELOG_DATABASE_URL", url)
    async with tidelog.open() as streams:
        await streams.job.set("all", "1", {"title": "there"})
        assert await streams.job.get("all", "1") == {"id": "1", "title": "there"}


@pytest.mark.parametrize("given", [None, [JOB]])
async def test_what_keeps_a_program_from_its_database_is_told_with_what_to_do(
    databases: Databases, given: list[Stream] | None
) -> None:
    """By errors of ours, as a server's start tells it; also where the streams are given."""
    empty = await databases.create()

    async def refusal(url: str) -> TidelogError:
        with pytest.raises(TidelogError) as refused:
            async with tidelog.open(url, given):
                pass
        return refused.value

    try:
        unmigrated = await refusal(empty)
        assert unmigrated.code == "streams_not_migrated" and "`tidelog migrate`" in str(unmigrated)
        absent = await refusal(make_url(empty).set(database="absent").render_as_string(hide_password=False))
        assert absent.code == "database_unreachable" and "database of tidelog.open" in str(absent)
        assert 'make it ("create database ..."), or correct the name' in str(absent)
        closed = await refusal(f"postgresql://u:hush-hush@127.0.0.1:{free_port()}/d")
        assert "nothing listens there: does the server run" in str(closed) and "hush" not in str(closed)
        connection = await asyncpg.connect(empty)
        await asyncio.to_thread(upgrade, Settings(database_url=empty), [JOB])
        role = f"tidelog_test_outside_{RUN}"
        await connection.execute(f"create role {role}")
        try:
            with pytest.raises(GrantMissingError, match="grant usage on schema streams"):
                await denied(empty, role)
        finally:
            await connection.execute(f"drop role {role}")
            await connection.close()
    finally:
        await databases.drop(empty)


async def denied(url: str, role: str) -> None:
    """Open it as a role that may nothing."""
    async with tidelog.open(f"{url}{'&' if '?' in url else '?'}options=-c%20role%3D{role}"):
        pass


async def test_an_operation_while_the_database_is_away_says_where_it_was_looked_for(tmp_path: Path) -> None:
    """A worker's, on the embedded Postgres whose server has stopped; it goes on when that is back."""
    embedded = EmbeddedPostgres(tmp_path / "data")
    try:
        url = await asyncio.to_thread(embedded.start)
        await asyncio.to_thread(upgrade, Settings(database_url=url), [JOB])
        async with tidelog.open(url) as streams:
            await streams.job.set("all", "1", {"title": "before"})
            await asyncio.to_thread(embedded.stop)
            with suppress(DatabaseUnavailableError):  # it may be this one that finds out
                await streams.job.get("all", "1")
            with pytest.raises(NoConnectionError) as away:
                await streams.job.get("all", "1")
            socket = make_url(url).query["host"]
            assert f"no connection to the database: {socket}" in str(away.value)
            assert "The embedded Postgres does while `tidelog serve` does" in str(away.value)
            await asyncio.to_thread(embedded.start)
            assert await streams.job.get("all", "1") == {"id": "1", "title": "before"}
    finally:
        await asyncio.to_thread(embedded.stop)
        await asyncio.to_thread(shutil.rmtree, embedded.home)  # as root it may be elsewhere
