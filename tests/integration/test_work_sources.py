"""Cron and stream steps, and how workers are woken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.consumer_fixtures import numbering
from tests.integration.step_fixtures import StepKit, StepTemplate, open_steps
from tests.integration.work_fixtures import WorkKit, emitting, event_step
from tidelog.model.step import Step
from tidelog.queue import workers
from tidelog.queue.changes import CONSUMER
from tidelog.queue.schedule import last_tick, next_tick, seconds_until_next
from tidelog.store.engine import Database

# The lock of a worker that sleeps, in this database.
BED = (
    "locktype = 'advisory' and classid = 1953064044 and objid = 4 "
    "and database = (select oid from pg_database where datname = current_database())"
)


@pytest.fixture
async def kit(step_template: StepTemplate) -> AsyncIterator[StepKit]:
    async with open_steps(step_template, pool_size_max=10) as kit:
        yield kit


def cron_step(handler: Any, cron: str, **config: Any) -> Step:
    return Step.of_reaction({"type": "cron", "name": "Tick", "cron": cron, **config}, handler)


def stream_step(handler: Any, **config: Any) -> Step:
    return Step.of_reaction({"type": "stream", "name": "Follow", "streamName": "chatMessage", **config}, handler)


async def test_a_cron_step_runs_once_for_each_tick_in_the_whole_cluster(kit: StepKit) -> None:
    """Three processes, a tick each second. The handler takes the context alone, as Motia's do."""
    ticks: list[Any] = []

    async def handler(context: Any) -> None:
        ticks.append((await kit.query("select last_at from streams.step_cron"))[0])
        await context.emit({"topic": "ticked", "data": {}})

    work = WorkKit(kit, cron_step(handler, "* * * * * *", emits=["ticked"]))
    async with work.working(processes=3), asyncio.timeout(60):
        while len(ticks) < 3:  # noqa: ASYNC110 - the clock sends no signals
            await asyncio.sleep(0.05)
    assert sorted(set(ticks)) == ticks


async def test_ticks_that_were_missed_are_one_run_and_a_new_step_has_missed_none(kit: StepKit) -> None:
    """After downtime; and one whose time was changed is a new one."""
    runs: list[Any] = []

    async def handler(input: Any, context: Any) -> None:
        runs.append(input)

    work = WorkKit(kit, cron_step(handler, "0 0 * * *"))
    async with work.working():
        await work.until("select count(*) = 1 from streams.step_cron")
    assert runs == []
    await kit.query("update streams.step_cron set last_at = last_at - interval '30 days' returning 1")
    async with work.working(processes=2):
        await work.until("select last_at > now() - interval '25 hours' from streams.step_cron")
        await work.until_done()
    assert runs == [None]
    await kit.query("update streams.step_cron set last_at = last_at - interval '30 days' returning 1")
    changed = WorkKit(kit, cron_step(handler, "0 1 * * *"))
    async with changed.working():
        await changed.until("select expression = '0 1 * * *' from streams.step_cron")
        await changed.until_done()
    assert runs == [None]


@pytest.mark.parametrize(
    ("expression", "now", "last", "following"),
    [
        ("*/5 * * * *", "2026-03-01 12:04:59.5", "2026-03-01 12:00", "2026-03-01 12:05"),
        ("0 0 29 2 *", "2026-03-01 12:00", "2024-02-29 00:00", "2028-02-29 00:00"),
        ("30 2 * * *", "2026-03-29 12:00", "2026-03-29 03:00", "2026-03-30 02:30"),  # 02:30 is left out in Berlin
        ("*/10 * * * * *", "2026-03-01 12:00:10", "2026-03-01 12:00:10", "2026-03-01 12:00:20"),
    ],
)
def test_ticks_are_those_of_the_clock_on_the_wall(expression: str, now: str, last: str, following: str) -> None:
    berlin = ZoneInfo("Europe/Berlin")

    def at(text: str) -> datetime:
        return datetime.fromisoformat(text).replace(tzinfo=berlin)

    found = last_tick(expression, at(now)), next_tick(expression, at(now))
    assert [one and one.astimezone(UTC) for one in found] == [at(last).astimezone(UTC), at(following).astimezone(UTC)]


@pytest.mark.parametrize(
    ("expression", "now", "seconds"),
    [
        ("* * * * *", "2026-03-29 01:58:30+01:00", 30),
        ("* * * * *", "2026-03-29 01:59:30+01:00", 30),  # the next is 03:00
        ("0 * * * *", "2026-03-29 01:59:30+01:00", 30),
        ("0 4 * * *", "2026-03-29 01:00:00+01:00", 2 * 3600),
        ("* * * * *", "2026-10-25 02:59:30+02:00", 30),  # the next is 02:00 once more
        ("* * * * *", "2026-10-25 02:30:30+01:00", 30),
        ("0 4 * * *", "2026-10-25 02:00:00+02:00", 3 * 3600),
    ],
)
def test_the_next_tick_is_waited_for_as_long_as_it_takes(expression: str, now: str, seconds: float) -> None:
    """Also in the nights in which clocks are set: neither an hour too long, nor in a loop without a rest."""
    moment = datetime.fromisoformat(now).astimezone(ZoneInfo("Europe/Berlin"))
    assert seconds_until_next(expression, moment) == seconds


async def test_a_stream_step_runs_for_each_change_in_the_order_of_its_group(kit: StepKit) -> None:
    """Also of a change by SQL, exactly once, though two processes follow; of a delete it gets the item as it was."""
    seen: dict[str, list[Any]] = {}

    async def handler(input: Any, context: Any) -> None:
        assert (input["type"], input["streamName"]) == ("stream", "chatMessage") and input["timestamp"] > 0
        await asyncio.sleep(0)
        change = (input["id"], input["event"]["type"], input["event"]["data"].get("text"))
        seen.setdefault(input["groupId"], []).append(change)

    work = WorkKit(kit, stream_step(handler))
    set_item = "insert into streams.chat_message (group_id, id, data) values ($1, $2, $3) returning 1"
    with numbering(kit.url):
        async with work.working(processes=2):
            await work.until(f"select exists (select from streams.consumer where name = '{CONSUMER}')")
            for group in ("a", "b"):
                await kit.query(set_item, group, "m1", '{"text": "one"}')
                await kit.query(
                    "update streams.chat_message set data = $2 where group_id = $1 returning 1",
                    group,
                    '{"text": "two"}',
                )
                await kit.query("delete from streams.chat_message where group_id = $1 returning 1", group)
            await _until(lambda: [len(changes) for changes in seen.values()] == [3, 3])
            await work.until_done()
    changes = [("m1", "create", "one"), ("m1", "update", "two"), ("m1", "delete", "two")]
    assert seen == {"a": changes, "b": changes}


async def test_a_stream_step_of_one_group_or_item_runs_for_its_changes_alone(kit: StepKit) -> None:
    """And of those for what its condition takes. What was changed before the first of its processes is not its."""
    seen: list[Any] = []

    async def handler(input: Any) -> None:
        seen.append((input["groupId"], input["id"]))

    def is_wanted(input: Any, context: Any) -> bool:
        return bool(input["event"]["type"] == "create")

    work = WorkKit(
        kit,
        stream_step(handler, groupId="a", condition=is_wanted),
        stream_step(handler, name="One", groupId="b", itemId="m2"),
    )
    with numbering(kit.url):
        fill = (
            "insert into streams.chat_message (group_id, id, data) select g, i, '{}' from unnest('{a,b}'::text[]) g, "
        )
        await kit.query(fill + "unnest('{m0}'::text[]) i returning 1")
        await work.until("select count(*) > 0 from streams.commit")
        async with work.working():
            await work.until(f"select exists (select from streams.consumer where name = '{CONSUMER}')")
            await kit.query(fill + "unnest('{m1,m2}'::text[]) i returning 1")
            await kit.query(
                "update streams.chat_message set data = '{\"text\": \"b\"}' where group_id = 'a' returning 1"
            )
            await _until(lambda: len(seen) == 3)
            await work.until("select position = (select max(number) from streams.commit) from streams.consumer")
            await work.until_done()
    assert sorted(seen) == [("a", "m1"), ("a", "m2"), ("b", "m2")]


async def _until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - a handler's memory sends no signals
            await asyncio.sleep(0.02)


async def test_workers_that_sleep_are_woken_by_an_emit(kit: StepKit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by looking now and then: here they would look once in an hour. In each process, whoever is asleep."""
    monkeypatch.setattr(workers, "SLOW_POLL_SECONDS", 3600)
    seen: list[Any] = []

    async def handler(input: Any, context: Any) -> None:
        seen.append(input)

    work = WorkKit(kit, emitting("made"), event_step(handler, "made"))
    asleep = f"select count(*) = 1 from pg_locks where {BED}"
    async with work.working(processes=2):
        for number in range(10):
            await work.until(asleep + " and mode = 'ExclusiveLock' and granted")
            await work.emit({"topic": "made", "data": number})
            await _until(lambda: len(seen) == number + 1)  # noqa: B023 - it is awaited here
            await work.until_done()


async def test_under_load_nobody_notifies(kit: StepKit) -> None:
    """NOTIFY takes a lock over the whole cluster: who emits while all workers are at work leaves it out."""
    hanging = asyncio.Event()

    async def handler(input: Any, context: Any) -> None:
        await hanging.wait()

    work = WorkKit(kit, emitting("made"), event_step(handler, "made"), event_step(handler, "made", name="Other"))
    rung: list[Any] = []
    listener = await Database.connector(kit.url)()
    try:
        await listener.add_listener("tidelog_work", lambda *_: rung.append(1))
        async with work.working(at_once_max=2):
            await work.emit({"topic": "made", "data": 0})
            await work.until("select count(*) = 2 from streams.step_job where is_claimed")
            await work.until(f"select not exists (select from pg_locks where {BED} and granted)")
            await listener.execute("select 1")
            before = len(rung)
            for number in range(20):
                await work.emit({"topic": "made", "data": number})
            await listener.execute("select 1")
            assert len(rung) == before
            hanging.set()
            await work.until_done()
    finally:
        await listener.close()
