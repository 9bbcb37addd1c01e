"""Stream steps of several processes, which need not have the same, and changes that are large."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from tests.consumer_fixtures import numbering
from tests.harness import eventually
from tests.integration.step_fixtures import STREAM, StepKit, StepTemplate, open_steps
from tests.integration.test_work_sources import stream_step
from tests.integration.work_fixtures import WorkKit
from tidelog.model.step import reacting
from tidelog.queue import changes
from tidelog.queue.changes import ChangeFeed
from tidelog.store.erasing import erase
from tidelog.store.undeclared import warn_of_unknown_steps

SET = "insert into streams.chat_message (group_id, id, data) values ('g', $1, $2::text::jsonb) returning 1"


@pytest.fixture
async def kit(step_template: StepTemplate) -> AsyncIterator[StepKit]:
    async with open_steps(step_template, pool_size_max=10) as kit:
        yield kit


class Seen:
    """The ids of the changes that a stream step was given."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    async def note(self, input: Any) -> None:
        self.ids.append(input["id"])


async def test_a_step_that_only_one_process_has_misses_nothing_that_others_come_to_first(kit: StepKit) -> None:
    """As while a release is rolled out: all take turns at the log, and the old ones don't know the new step."""
    early, late = Seen(), Seen()
    old = WorkKit(kit, stream_step(early.note))
    new = WorkKit(kit, stream_step(early.note), stream_step(late.note, name="Late"))
    with numbering(kit.url):
        async with new.working():
            await new.until("select count(*) = 2 from streams.step_stream")
        async with old.working():
            await kit.query(SET, "1", "{}")
            await old.until("select count(*) = 1 from streams.step_job where step = 'Late'")
            await old.until("select not exists (select from streams.step_job where step = 'Follow')")
        async with new.working(), old.working():
            await kit.query(SET, "2", "{}")
            await eventually(lambda: len(early.ids) == len(late.ids) == 2)
            await new.until_done()
    assert early.ids == late.ids == ["1", "2"]


async def test_a_process_that_begins_waits_for_the_turn_of_another(kit: StepKit) -> None:
    """Who has its turn goes by the steps that there were: a change behind the start is of the next turn."""
    late = Seen()
    feed = ChangeFeed(reacting([stream_step(late.note, name="Late")]), {STREAM.name})
    with numbering(kit.url):
        async with WorkKit(kit, stream_step(Seen().note)).working():
            await kit.query(SET, "0", "{}")
        other = await kit.database.connect()
        async with other.transaction():
            await other.execute("select from streams.consumer where name = $1 for update", changes.CONSUMER)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(changes, "LOCK_TIMEOUT", "100ms")
                with pytest.raises(asyncpg.LockNotAvailableError):
                    await feed._keep(kit.database.connect)
        await other.close()
        await feed._keep(kit.database.connect)
    assert await kit.query("select step from streams.step_stream order by step") == ["Follow", "Late"]


async def test_a_step_that_nobody_has_had_for_a_day_is_forgotten(
    kit: StepKit, caplog: pytest.LogCaptureFixture
) -> None:
    """Until then it may be that of a worker that is down, whose jobs are made for it."""
    seen = Seen()
    for age, expected in (("23 hours", ["Follow", "Gone"]), ("25 hours", ["Follow"])):
        gone = ChangeFeed(reacting([stream_step(seen.note, name="Gone")]), {STREAM.name})
        await gone._keep(kit.database.connect)
        await kit.query("update streams.step_stream set seen_at = seen_at - $1::text::interval returning 1", age)
        here = ChangeFeed(reacting([stream_step(seen.note)]), {STREAM.name})
        await here._keep(kit.database.connect)
        await here._forget(kit.database.connect)
        assert await kit.query("select step from streams.step_stream order by step") == expected
    assert "stream step Gone gets no more jobs" in caplog.text


async def test_a_stream_step_that_no_file_has_is_told_of_at_the_start(
    kit: StepKit, caplog: pytest.LogCaptureFixture
) -> None:
    """As one that was renamed, of which the changes make jobs for a day; with what ends that."""
    await ChangeFeed(reacting([stream_step(Seen().note, name="Old's")]), {STREAM.name})._keep(kit.database.connect)
    connection = await kit.database.connect()
    await warn_of_unknown_steps(connection, ["Old's"])
    assert caplog.text == ""
    await warn_of_unknown_steps(connection, ["New"])
    await connection.close()
    assert "delete from streams.step_stream where step = 'Old''s'" in caplog.text


async def test_large_changes_are_many_statements(kit: StepKit, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit of gigabytes has its jobs as well; a statement that Postgres takes for too large never had."""
    seen, sizes = Seen(), []
    insert = changes._insert

    async def noted(connection: Any, rows: list[tuple[str, str, str, str, float]]) -> None:
        sizes.append(sum(len(text) for _, _, text, _, _ in rows))
        await insert(connection, rows)

    monkeypatch.setattr(changes, "_insert", noted)
    monkeypatch.setattr(changes, "CHARACTERS_AT_ONCE", 10_000)
    work = WorkKit(kit, stream_step(seen.note))
    text = json.dumps({"text": "é" * 3000}, ensure_ascii=False)
    with numbering(kit.url):
        async with work.working():
            await work.until("select count(*) = 1 from streams.step_stream")
            await kit.query(
                "insert into streams.chat_message (group_id, id, data) "
                "select 'g', n, $1::text::jsonb from generate_series(10, 49) n returning 1",
                text,
            )
            await eventually(lambda: len(seen.ids) == 40)
            await work.until_done()
    assert seen.ids == [str(number) for number in range(10, 50)]
    assert max(sizes) < 2 * 10_000


@pytest.mark.parametrize("error", [asyncpg.ConnectionDoesNotExistError("too large, say"), OSError("too large, say")])
async def test_what_interrupts_it_is_told_as_long_as_it_does(
    kit: StepKit, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Interruptions pass, mostly; one that comes again and again is trouble that readiness has."""
    feed = ChangeFeed(reacting([stream_step(Seen().note)]), {STREAM.name})
    with numbering(kit.url):
        await feed.start(kit.url, kit.database.connect)
        try:
            with monkeypatch.context() as broken:

                async def fail(*_: Any) -> None:
                    raise error

                broken.setattr(changes, "_insert", fail)
                await kit.query(SET, "1", "{}")
                await eventually(lambda: "too large, say" in str(feed.trouble))
            await eventually(lambda: feed.trouble is None)
        finally:
            await feed.stop()
    assert await kit.query("select count(*) from streams.step_job") == [1]


async def test_what_is_erased_is_erased_from_jobs_too(kit: StepKit) -> None:
    """Those that wait, and those that were given up, whose errors may quote it. Of other items all stays as it is."""

    async def refuse(input: Any, context: Any) -> None:
        raise ValueError(json.dumps(input))

    feed = ChangeFeed(reacting([stream_step(Seen().note, name="Waiting")]), {STREAM.name})
    work = WorkKit(kit, stream_step(refuse, infrastructure={"queue": {"maxRetries": 0}}))
    texts = (
        "select count(*) from (select j::text from streams.step_job j union all "
        "select p::text from streams.step_parked p) as every (text) where text like '%' || $1 || '%'"
    )
    with numbering(kit.url):
        await feed._keep(kit.database.connect)  # nobody runs it
        async with work.working():
            for id in ("1", "2"):
                await kit.query(SET, id, json.dumps({"text": f"secret-of-{id}"}))
            await work.until_parked(2)
            await work.until("select count(*) = 2 from streams.step_job")
        assert await kit.query(texts, "secret-of-1") == [2]
        await erase(kit.database.connect, "chatMessage", "g", "1")
    assert await kit.query(texts, "secret-of-1") == [0]
    assert await kit.query(texts, "secret-of-2") == [2]
    inputs = "select input ->> 'id' from streams.step_parked order by 1"
    assert (await kit.query(inputs), await kit.query(inputs.replace("step_parked", "step_job"))) == (["1", "2"],) * 2
    assert await kit.query("select error from streams.step_parked where input ->> 'id' = '1'") == ["ValueError"]


async def test_a_run_that_had_begun_before_an_erasure_says_nothing_of_it(kit: StepKit) -> None:
    """What its handler raises may quote what it was given. The job is run again, with what is left."""
    began, go_on = asyncio.Event(), asyncio.Event()

    async def refuse(input: Any, context: Any) -> None:
        began.set()
        await go_on.wait()
        raise ValueError(json.dumps(input))

    work = WorkKit(kit, stream_step(refuse, infrastructure={"queue": {"maxRetries": 0}}))
    with numbering(kit.url):
        async with work.working():
            await work.until("select count(*) = 1 from streams.step_stream")
            await kit.query(SET, "1", '{"text": "a-secret"}')
            await began.wait()
            await erase(kit.database.connect, "chatMessage", "g", "1")
            go_on.set()
            await kit.query("update streams.step_job set due_at = now() where is_claimed returning 1")
            await work.until_parked(2)  # the change, and its deletion
    assert await kit.query("select count(*) from streams.step_parked p where p::text like '%a-secret%'") == [0]
