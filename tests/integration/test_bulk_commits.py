"""A commit of very many rows: of what nobody subscribed to nothing is read, of the rest what is wanted, exactly."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from tests.feed_insides import go_on_from
from tests.harness import eventually, until_numbered
from tests.integration.sequencer_fixtures import connected, sequencing
from tests.integration.test_rejoin import TOPIC, Feed, Person, check, write
from tidelog.consumer import consume
from tidelog.feed.subscription import PositionSubscription
from tidelog.model.change import Commit, Topic
from tidelog.model.position import Position
from tidelog.store import archive as archive_module
from tidelog.store import bulk as bulk_module
from tidelog.store import live as live_module
from tidelog.store import reading as reading_module
from tidelog.store.bulk import Bulk
from tidelog.store.live import LiveLog, read_live
from tidelog.store.log import FEED_SETTINGS, NUMBER_MANY, Numbering
from tidelog.store.reading import Page, PageRequest, read_after, read_page
from tidelog.store.window import numbering_window

STREAM = "chatMessage"
ROWS = 3000  # as much more than a small commit has as a million is, for all that reads it
READ_MAX = 400  # what may be read of them
READ_BYTES_MAX = 300_000
INSERT = "insert into streams.chat_message (group_id, id, data) "
OTHERS = {
    "an insert into one group": f"{INSERT} select 'bulk', i::text, '{{}}' from generate_series(1, {ROWS}) i",
    "as many groups": f"{INSERT} select 'bulk ' || i, 'a', '{{}}' from generate_series(1, {ROWS}) i",
    "an update": "update streams.chat_message set data = '{\"n\": 1}' where group_id like 'old%'",
    "a delete": "delete from streams.chat_message where group_id like 'old%'",
    "events": f"select count(streams.send('{STREAM}', 'bulk', null, 't', '{{}}')) from generate_series(1, {ROWS})",
    "the group's name in another stream": "insert into streams.other (group_id, id, data) "
    f"select 'g', i::text, '{{}}' from generate_series(1, {ROWS}) i",
    "few rows, large ones": f"{INSERT} select 'bulk', i::text, jsonb_build_object('x', "
    "(select string_agg(md5(random()::text), '') from generate_series(1, 5000))) from generate_series(1, 20) i",
}


class Reads:
    """How many rows the reader was given, and of how much data."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows = self.size = 0
        page, fetch = LiveLog.page, Bulk._fetch

        async def counting_page(log: LiveLog, first: int, last: int) -> Sequence[Any]:
            return self._count(await page(log, first, last))

        async def counting_fetch(bulk: Bulk, query: str, *arguments: object) -> Any:
            return self._count(await fetch(bulk, query, *arguments))

        monkeypatch.setattr(LiveLog, "page", counting_page)
        monkeypatch.setattr(Bulk, "_fetch", counting_fetch)

    def _count(self, rows: Any) -> Any:
        self.rows += len(rows)
        self.size += sum(len(row["data"] or "") for row in rows if "data" in row.keys())  # noqa: SIM118 - a Record
        return rows


@asynccontextmanager
async def live(feed: Feed, topic: Topic = TOPIC) -> AsyncIterator[Person]:
    person = feed.subscribe(topic)
    await eventually(lambda: any(frame["type"] == "live" for frame in person.frames))
    yield person


async def prepare(sql: asyncpg.Connection[Any]) -> None:
    await sql.execute("select streams.declare('other', 'other', '{}')")
    await sql.execute(f"{INSERT} select 'old' || i % 7, i::text, '{{}}' from generate_series(1, {ROWS}) i")


@pytest.mark.parametrize("kind", OTHERS)
async def test_what_nobody_subscribed_to_is_not_read(
    database_url: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever statement made it: the reader is given a few rows of it, and goes on to what is wanted."""
    async with connected(database_url) as sql:
        await prepare(sql)
        with sequencing(database_url):
            async with Feed.on(database_url) as feed, live(feed) as person:
                await write(sql, "before")
                await person.until_told("before")
                reads = Reads(monkeypatch)
                await sql.execute(OTHERS[kind])
                await write(sql, "after")
                await person.until_told("after")
                assert reads.rows < READ_MAX
                assert reads.size < READ_BYTES_MAX
                assert person.reasons() == []


async def test_what_nobody_subscribed_to_is_not_read_from_copy(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """COPY, in ten commits of medium size."""
    async with connected(database_url) as sql:
        with sequencing(database_url):
            async with Feed.on(database_url) as feed, live(feed) as person:
                reads = Reads(monkeypatch)
                for n in range(10):
                    rows = [("bulk", f"{n}/{i}", "{}") for i in range(ROWS // 10)]
                    await sql.copy_records_to_table(
                        "chat_message", schema_name="streams", records=rows, columns=["group_id", "id", "data"]
                    )
                await write(sql, "after")
                await person.until_told("after")
                assert reads.rows < READ_MAX


async def test_statistics_of_a_bad_moment_change_nothing(database_url: str) -> None:
    """ANALYZE while a large transaction is open counts none of its rows: its number and page are found by the key."""
    async with connected(database_url, **FEED_SETTINGS) as feed, connected(database_url) as sql:
        async with connected(database_url) as large, large.transaction():
            await large.execute(f"{INSERT} select 'bulk', i::text, '{{}}' from generate_series(1, {30 * ROWS}) i")
            for n in range(120):
                await write(sql, f"small {n}")
            before = await Numbering.load(feed)
            await before.advance(feed)
            await sql.execute("analyze streams.change; analyze streams.event; analyze streams.commit")
        async with feed.transaction():
            many = (await numbering_window(feed, before.snapshot)).apply(NUMBER_MANY)
            row = await feed.fetchrow(many, before.snapshot, before.number, before.at, 2**62, 0, True)
            assert row is not None and row["numbered"] == 1
            (page,) = await LiveLog(feed, 10).page(row["number"], row["number"])
            assert page["data"] is None
            read = await feed.fetchval(
                "select seq_tup_read + idx_tup_fetch from pg_stat_xact_user_tables where relname = 'change'"
            )
            assert read < READ_MAX


async def random_commits(sql: asyncpg.Connection[Any], chance: random.Random) -> None:
    """Small and large ones, of changes and events, in a few groups or many, with a little data or more."""
    await sql.execute("select setseed($1)", chance.random())
    for n in range(14):
        rows, groups = chance.choice([1, 3, 40]), chance.choice([1, 2, 30])
        async with sql.transaction():
            await sql.execute(
                f"{INSERT} select 'g' || (random() * $2::int)::int, $3 || i, jsonb_build_object('x', repeat('x', $4)) "
                "from generate_series(1, $1::int) i",
                rows,
                groups,
                f"{n}/",
                chance.choice([1, 300, 9000]),
            )
            if chance.random() < 0.5:
                await sql.execute(
                    f"select streams.send('{STREAM}', 'g' || (random() * $2::int)::int, null, 't', '{{}}') "
                    "from generate_series(1, $1::int)",
                    rows // 2 + 1,
                    groups,
                )
            if chance.random() < 0.3:
                await sql.execute("delete from streams.chat_message where random() < 0.2")


@pytest.mark.parametrize("wanted_groups", [0, 1, 7, 60])
async def test_what_is_wanted_comes_as_if_all_had_been_read(
    database_url: str, wanted_groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By scanning the commit's topics or by looking the wanted ones up, for any number of either."""
    chance = random.Random(wanted_groups)  # noqa: S311 - not a secret
    monkeypatch.setattr(live_module, "SMALL_ROWS_MAX", 5)
    monkeypatch.setattr(bulk_module, "TOPICS_AT_ONCE", 4)
    monkeypatch.setattr(bulk_module, "ROWS_AT_ONCE", 7)
    monkeypatch.setattr(live_module, "PAGE_ROWS_MAX", 20)
    for module in (live_module, bulk_module):
        monkeypatch.setattr(module, "PAGE_BYTES_MAX", 5000)
    async with connected(database_url, **FEED_SETTINGS) as sql:
        await random_commits(sql, chance)
        numbering = await Numbering.load(sql)
        await numbering.advance(sql)
        wanted = {Topic(STREAM, f"g{n}"): None for n in range(wanted_groups)}

        async def fetch(request: PageRequest) -> Page:
            return await read_page(sql, request, timeout_seconds=10)

        begun: list[int] = []
        all_read = [
            commit
            async for commits in read_after(fetch, 0, numbering.number, wanted.__contains__)
            for commit in commits
        ]
        found = [
            commit
            async for commits in read_live(LiveLog(sql, 10), 0, 10**12, wanted.keys(), begun.append)
            for commit in commits
        ]
        assert found == all_read
        assert 0 < len(begun) < numbering.number


async def test_more_rows_than_are_carried_are_a_reset(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where they are few bytes; those of other groups in the same commit are in it, or begin again, too."""
    for module in (bulk_module, reading_module):
        monkeypatch.setattr(module, "COMMIT_ROWS_MAX", 200)
    async with connected(database_url) as sql:
        with sequencing(database_url):
            async with Feed.on(database_url) as feed, live(feed) as person:
                await sql.execute(f"{INSERT} select 'g', 'few/' || i, '{{}}' from generate_series(1, 201) i")
                await person.until_told("few/201")
                assert person.reasons() == []
                await sql.execute(f"{INSERT} select 'g', 'many/' || i, '{{}}' from generate_series(1, 202) i")
                await eventually(person.reasons)
                await write(sql, "after")
                await person.until_told("after")
                await check(sql, person)
                assert person.reasons() == ["too_large"]


@pytest.mark.parametrize("kind", ["an insert", "an update", "a delete", "events"])
async def test_who_comes_back_is_not_read_more_rows_than_are_carried(
    database_url: str, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """It begins again; a group that the commit touches behind them does, too, and one that it doesn't goes on."""
    for module in (bulk_module, reading_module):
        monkeypatch.setattr(module, "COMMIT_ROWS_MAX", 500)
    many = "from generate_series(1, 3000) i"
    statements = {
        "an insert": f"{INSERT} select 'g', 'many/' || i, '{{}}' {many}",
        "an update": "update streams.chat_message set data = '{\"n\": 1}' where group_id = 'g'",
        "a delete": "delete from streams.chat_message where group_id = 'g'",
        "events": f"select count(streams.send('{STREAM}', 'g', null, 't', '{{}}')) {many}",
    }
    rows: list[int] = []
    page = archive_module.read_page

    async def counting(*arguments: Any, **options: Any) -> Page:
        read = await page(*arguments, **options)
        rows.append(len(read.rows))
        return read

    monkeypatch.setattr(archive_module, "read_page", counting)
    async with connected(database_url) as sql:
        with sequencing(database_url):
            if kind in ("an update", "a delete"):
                await sql.execute(statements["an insert"])
            await write(sql, "before", "quiet")
            await until_numbered(sql)
            async with Feed.on(database_url) as feed:
                since = Position(feed.broadcaster.progress.position, feed.broadcaster.progress.epoch)
                async with sql.transaction():
                    await sql.execute(statements[kind])
                    await write(sql, "x", "last")
                await write(sql, "after")
                await write(sql, "after", "quiet")
                await until_numbered(sql)
                people = [feed.subscribe(Topic(STREAM, group), since) for group in ("g", "last", "quiet")]
                await eventually(lambda: all("live" in {f["type"] for f in one.frames} for one in people))
                await check(sql, people[0])
                assert [one.reasons() for one in people] == [["too_large"], [], []]
                rows.clear()
                both = Person(feed)
                both.subscription.since = since
                last = PositionSubscription("last", both, Topic(STREAM, "last"), None, since)
                for subscription in (both.subscription, last):
                    feed.broadcaster.subscribe(subscription)
                await eventually(lambda: len([f for f in both.frames if f["type"] == "live"]) == 2)
                assert both.reasons() == ["too_large", "too_large"]
                assert sum(rows) < 1500


async def test_more_bytes_than_are_carried_are_a_reset_of_all_that_are_touched(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a group whose rows come after those that were too much, and were not read."""
    for module in (bulk_module, reading_module):
        monkeypatch.setattr(module, "COMMIT_SIZE_MAX_BYTES", 50_000)
    monkeypatch.setattr(bulk_module, "PAGE_BYTES_MAX", 5000)
    async with connected(database_url) as sql:
        with sequencing(database_url):
            async with Feed.on(database_url) as feed, live(feed, Topic(STREAM, "first")) as first, live(feed) as person:
                await sql.execute(
                    f"{INSERT} select case when i <= 200 then 'first' else 'g' end, i::text, "
                    "jsonb_build_object('x', repeat('x', 1000)) from generate_series(1, 201) i"
                )
                await eventually(lambda: feed.broadcaster.progress.position == 1)
                assert (first.reasons(), person.reasons()) == (["too_large"], ["too_large"])
                await check(sql, person)


async def test_a_group_of_many_in_one_commit_gets_its_rows(database_url: str) -> None:
    """Of a commit in more groups than rows are carried, all of them wanted: one row each, no snapshot each."""
    async with connected(database_url) as sql:
        with sequencing(database_url):
            async with Feed.on(database_url) as feed, live(feed, Topic(STREAM, "g7")) as one:
                for n in range(2 * bulk_module.TOPICS_AT_ONCE):
                    feed.broadcaster.registry.attach(Topic(STREAM, f"g{n}"), _Idle())
                await sql.execute(f"{INSERT} select 'g' || i, 'x', '{{}}' from generate_series(0, {ROWS}) i")
                await one.until_told("x")
                assert one.reasons() == []


class _Idle:
    """A follower that keeps nothing."""

    def keep(self, *_: object) -> None:
        pass

    def overflow(self) -> None:
        raise AssertionError


async def test_who_comes_while_a_large_commit_is_read_has_it_exactly_once(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By snapshot, or from a position before it: whether the reader had found its group wanted or not."""
    is_begun, may_end = asyncio.Event(), asyncio.Event()
    read = Bulk.read

    async def read_slowly(bulk: Bulk, commit: Commit, wanted: Collection[Topic]) -> Commit | None:
        done = await read(bulk, commit, wanted)
        is_begun.set()
        await may_end.wait()
        return done

    monkeypatch.setattr(Bulk, "read", read_slowly)
    async with connected(database_url) as sql:
        with sequencing(database_url):
            async with Feed.on(database_url) as feed, live(feed, Topic(STREAM, "another")):
                await write(sql, "before")
                await eventually(lambda: feed.broadcaster.progress.position == 1)
                await sql.execute(
                    f"{INSERT} select case when i % 500 = 0 then 'g' else 'bulk' end, i::text, '{{}}' "
                    f"from generate_series(1, {ROWS}) i"
                )
                await is_begun.wait()
                late = [feed.subscribe(), feed.subscribe(since=Position(1, feed.broadcaster.progress.epoch))]
                pumped = Person(feed)
                go_on_from(feed.broadcaster, pumped.subscription, 1)
                await pumped.until_told(str(ROWS))  # from the log
                may_end.set()
                await eventually(lambda: late[0].frames)  # its snapshot, which would have what is written from here on
                await write(sql, "after")
                for person in (*late, pumped):
                    await person.until_told("after")
                expected = {"before", "after", *(str(n) for n in range(500, ROWS + 1, 500))}
                ids = [sorted(told_ids(person)) for person in (*late, pumped)]
                assert ids == [sorted(expected), sorted(expected - {"before"}), sorted(expected - {"before"})]
                assert [person.reasons() for person in (*late, pumped)] == [[], [], []]


def told_ids(person: Person) -> list[str]:
    """Of all items that it was told of, as often as it was told."""
    return [one["id"] for frame in person.frames for part in ("items", "changes") for one in frame.get(part, ())]


async def test_a_consumer_of_a_group_is_handed_what_is_in_the_midst_of_a_large_commit(database_url: str) -> None:
    """With any filter."""
    async with connected(database_url) as sql:
        with sequencing(database_url):
            await sql.execute(
                f"{INSERT} select case when i % 500 = 0 then 'g' else 'bulk' end, i::text, '{{}}' "
                f"from generate_series(1, {ROWS}) i"
            )
            await write(sql, "last")
            expected = [str(n) for n in range(500, ROWS + 1, 500)]
            for streams, groups in (([STREAM], ["g"]), (None, ["g"]), ([STREAM], None), (None, None)):
                seen: list[tuple[str, str]] = []

                async def handler(commit: Any, _: object, seen: list[tuple[str, str]] = seen) -> None:
                    seen.extend([(change.group_id, change.id) async for change in commit])

                name = f"{streams} {groups}"
                work = asyncio.create_task(consume(database_url, name, handler, streams=streams, groups=groups))
                await eventually(lambda seen=seen: ("g", "last") in seen)
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)
                assert [id for group, id in seen if group == "g"] == [*expected, "last"]
                assert len(seen) == (ROWS + 1 if groups is None else len(expected) + 1)
