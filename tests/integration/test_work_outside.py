"""Events from code that is no step: an application's handlers, programs. They go with what else that code commits."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from litestar import post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

import tidelog
from tests.harness import StepsFolder, eventually
from tests.integration.test_plugin import BrokenError, ids, make_app, migrated, serving, sessions
from tidelog import OutsideStreams, TidelogConfig, TidelogPlugin
from tidelog.errors import EmitInvalidError, TopicUnknownError
from tidelog.migrate import upgrade
from tidelog.runtime.discovery import discover
from tidelog.settings import Settings
from tidelog.testing.application import app_of, opened_of

JOB_STREAM = """
config = {"name": "job", "schema": {"type": "object"}, "baseConfig": {"storageType": "default"}}
"""
SHIP_STEP = """
config = {"type": "event", "name": "Ship", "subscribes": ["order.made"], "emits": []}


async def handler(input, context):
    await context.streams.job.set("all", input["id"], {})
"""
PACK_STEP = """
config = {
    "type": "event",
    "name": "Pack",
    "subscribes": ["order.made"],
    "infrastructure": {"queue": {"type": "fifo"}},
    "emits": [],
}


async def handler(input, context):
    pass
"""
JOBS = "select step, topic, key, input, trace_id from streams.step_job order by id"


@pytest.fixture
def folder(steps: StepsFolder) -> Path:
    steps.write("job_stream.py", JOB_STREAM)
    steps.write("ship_step.py", SHIP_STEP)
    return steps.path


@pytest.fixture
async def url(database_url: str, folder: Path) -> str:
    """A database with the stream, and a table of the application's."""
    await asyncio.to_thread(upgrade, Settings(database_url=database_url), tuple(discover(folder).streams.values()))
    connection = await asyncpg.connect(database_url)
    await connection.execute("create table orders (id text primary key)")
    await connection.close()
    return database_url


@post("/orders/{id:str}")
async def in_session(
    id: FromPath[str],
    db_session: NamedDependency[AsyncSession],
    streams: NamedDependency[OutsideStreams],
    fails: FromQuery[bool] = False,
) -> None:
    await streams.emit({"topic": "order.made", "data": {"id": id}})
    await streams.revoke(subject=id)
    await db_session.execute(text("insert into orders values (:id)"), {"id": id})
    if fails:
        raise BrokenError


@post("/orders/{id:str}")
async def alone(id: FromPath[str], streams: NamedDependency[OutsideStreams], fails: FromQuery[bool] = False) -> None:
    await streams.emit({"topic": "order.made", "data": {"id": id}})
    if fails:
        raise BrokenError


@pytest.mark.parametrize("handler", [in_session, alone], ids=["in a session", "alone"])
async def test_what_a_handler_emits_is_handled_once_it_has_committed(url: str, folder: Path, handler: Any) -> None:
    """With the application's tables, or not at all."""
    plugin = await migrated(TidelogPlugin(TidelogConfig(database_url=url, steps_dir=folder)))
    dependencies = {"db_session": sessions(url)} if handler is in_session else {}
    async with serving(make_app([handler], plugins=[plugin], dependencies=dependencies)) as server:
        assert (await server.http.post("/orders/lost", params={"fails": True})).status_code == 500
        assert (await server.http.post("/orders/kept")).status_code == 201
        assert await eventually(lambda: ids(url, "streams.job")) == ["kept"]
    assert await jobs(url) == []
    assert await ids(url, "orders") == (["kept"] if handler is in_session else [])


async def test_a_program_emits_to_the_steps_of_its_folder(url: str, folder: Path, steps: StepsFolder) -> None:
    """By itself or in a transaction; each that subscribes has a job, in its group's order if it asks for that."""
    steps.write("pack_step.py", PACK_STEP)
    async with tidelog.open(url, steps_dir=folder) as streams:
        await streams.emit({"topic": "order.made", "data": {"id": "1"}, "messageGroupId": "ada"})
        async with streams.transaction() as together:
            await together.job.set("all", "2", {})
            await together.emit({"topic": "order.made", "data": {"id": "2"}})
        with pytest.raises(BrokenError):
            async with streams.transaction() as together:
                await together.emit({"topic": "order.made", "data": {"id": "3"}})
                raise BrokenError
    found = await jobs(url)
    assert [(row["step"], row["key"], row["input"]) for row in found] == [
        ("Pack", "ada", '{"id": "1"}'),
        ("Ship", None, '{"id": "1"}'),
        ("Pack", "", '{"id": "2"}'),
        ("Ship", None, '{"id": "2"}'),
    ]
    assert len({row["trace_id"] for row in found}) == 2
    assert await ids(url, "streams.job") == ["2"]


async def test_streams_of_authors_tests_emit_to_the_steps_of_their_application(url: str, folder: Path) -> None:
    """So an event step can be tested alone."""
    async with opened_of(app_of(TidelogConfig(steps_dir=folder))(url), url) as streams:
        await streams.emit({"topic": "order.made", "data": {"id": "1"}})
    assert [row["step"] for row in await jobs(url)] == ["Ship"]


@pytest.mark.parametrize("topic", ["order.mad", None, 1, ["order.made"]])
async def test_a_topic_that_nobody_subscribes_to_is_an_error_that_names_the_others(
    url: str, folder: Path, topic: Any
) -> None:
    """It would be lost."""
    async with tidelog.open(url, steps_dir=folder) as streams:
        with pytest.raises(TopicUnknownError, match=r"there are order\.made$"):
            await streams.emit({"topic": topic, "data": {}})
    async with tidelog.open(url) as streams:
        with pytest.raises(TopicUnknownError, match="steps_dir"):
            await streams.emit({"topic": "order.made", "data": {}})


@pytest.mark.parametrize("event", [None, "order.made", {"topic": "order.made", "data": object()}, {"data": {}}])
async def test_what_is_no_event_is_refused(url: str, folder: Path, event: Any) -> None:
    """With nothing stored."""
    async with tidelog.open(url, steps_dir=folder) as streams:
        with pytest.raises(EmitInvalidError):
            await streams.emit(event)
    assert await jobs(url) == []


async def test_an_event_that_is_not_awaited_is_an_error(url: str, folder: Path) -> None:
    """As every call on streams there."""
    with pytest.raises(RuntimeError, match="await"):
        async with tidelog.open(url, steps_dir=folder) as streams:
            streams.emit({"topic": "order.made", "data": {}})
    assert await jobs(url) == []


async def jobs(url: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(url)
    try:
        return list(await connection.fetch(JOBS))
    finally:
        await connection.close()
