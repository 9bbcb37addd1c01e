"""Subscribers and consumers of a stream whose old changes go: those that lack some begin again; nobody misses any."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from tests.consumer_fixtures import numbering, open_consumer_kit, store_effects
from tests.harness import eventually, until_numbered
from tests.integration.sequencer_fixtures import connected, sequencing
from tests.integration.test_rejoin import Feed
from tests.integration.test_resume_many import Page
from tests.peer import fold
from tidelog.consumer import Commit, consume
from tidelog.errors import PositionTooOldError
from tidelog.model.change import Topic
from tidelog.model.retention import StreamRetention
from tidelog.model.stream import Stream
from tidelog.settings import Settings
from tidelog.store import archive as archive_module
from tidelog.store.consumers import BEGINNING
from tidelog.store.engine import Database
from tidelog.store.stream_retention import begin_walk, remove_changes

CHAT, NOTE = "chatMessage", "note"
TABLES = {CHAT: "chat_message", NOTE: "note"}
NO_AGE = timedelta(0)
LAST = StreamRetention(changes=1)
ALL = StreamRetention(seconds=0.000001)
COMMITS = 400
FILL = f"""
do $$
begin
    for i in 1..{COMMITS} loop
        insert into streams.chat_message (group_id, id, data)
            values ('g' || i % 3, i % 4, jsonb_build_object('n', i))
            on conflict (group_id, id) do update set data = excluded.data;
        insert into streams.note (group_id, id, data)
            values ('g' || i % 3, i % 5, jsonb_build_object('n', i))
            on conflict (group_id, id) do update set data = excluded.data;
        commit;
    end loop;
end $$
"""

Sql = Any


class TwoStreams(Feed):
    """A feed of the streams chatMessage and note."""

    def __init__(self, database: Database, settings: Settings) -> None:
        super().__init__(database, settings)
        streams = {name: Stream(name) for name in TABLES}
        self.broadcaster.archive._streams = streams


async def fill(sql: Sql) -> None:
    await sql.execute("select streams.declare('note', 'note', '{}')")
    await sql.execute(FILL)
    await until_numbered(sql)


async def remove(sql: Sql, stream: str = CHAT, kept: StreamRetention = LAST, *, commits_max: int = 100_000) -> None:
    """One step of a walk."""
    after = await begin_walk(sql, stream, kept)
    await remove_changes(sql, stream, kept, after=after, commits_max=commits_max, age_min=NO_AGE)


async def floor_of(sql: Sql, stream: str = CHAT) -> int:
    floor: int = await sql.fetchval("select streams.floor($1)", stream)
    return floor


def resets_of(page: Page) -> dict[str, str]:
    return {frame["subscription"]: frame["reason"] for frame in page.frames if frame["type"] == "reset"}


def known_to(page: Page, name: str) -> dict[str, int]:
    """The state that a subscription was told, as the numbers in its items."""
    frames = []
    for frame in page.frames:
        if frame.get("subscription") == name:
            frames.append(frame)
        elif name in frame.get("subscriptions", ()):
            topic = page.subscriptions[name].topic
            changes = [one for one in frame["changes"] if (one["stream"], one["group"]) == topic]
            frames.append({**frame, "changes": changes})
    return {id: data["n"] for id, data in fold(frames).items()}


async def test_who_comes_back_from_before_the_floor_begins_again(database_url: str) -> None:
    """And then has exactly the present; others of its connection, and those of other streams, go on."""
    async with connected(database_url) as sql:
        with sequencing(database_url):
            await fill(sql)
            await remove(sql)
            floor = await floor_of(sql)
            assert floor > COMMITS // 2
            async with TwoStreams.on(database_url) as feed:
                page = Page(feed)
                page.subscribe("before", Topic(CHAT, "g1"), None, floor - 1)
                page.subscribe("at", Topic(CHAT, "g1"), None, floor)
                page.subscribe("other stream", Topic(NOTE, "g1"), None, 1)
                await page.until_live()
                assert resets_of(page) == {"before": "too_old"}
                assert len(page.told("at")) == sum(n % 3 == 1 for n in range(floor + 1, COMMITS + 1))
                assert len(page.told("other stream")) == sum(n % 3 == 1 for n in range(2, COMMITS + 1))
                await sql.execute("update streams.chat_message set data = '{\"n\": 1000}'")
                await eventually(lambda: set(known_to(page, "before").values()) == {1000})


@pytest.mark.parametrize("page_rows", [256, 7])
async def test_what_goes_while_it_is_read_is_missed_by_nobody(
    database_url: str, seed: int, monkeypatch: pytest.MonkeyPatch, page_rows: int
) -> None:
    """Retention removes at every page that is read: who lacks something begins again, the others are not disturbed."""
    monkeypatch.setattr(archive_module, "PAGE_ROWS_MAX", page_rows)
    draw = random.Random(seed)  # noqa: S311 - no secret
    async with connected(database_url) as sql, connected(database_url) as remover:
        with sequencing(database_url):
            await fill(sql)
            async with TwoStreams.on(database_url) as feed:
                archive = feed.broadcaster.archive

                def beside(read: Callable[..., Awaitable[Any]], *, is_before: bool) -> Callable[..., Awaitable[Any]]:
                    async def read_beside(*args: Any) -> Any:
                        if is_before:
                            await remove(remover, commits_max=draw.randint(1, 60))
                        return await read(*args)

                    return read_beside

                for name, is_before in (("page", True), ("ready", True), ("next_wanted", False)):
                    monkeypatch.setattr(archive, name, beside(getattr(archive, name), is_before=is_before))
                page = Page(feed)
                for n in range(8):
                    page.subscribe(f"chat {n}", Topic(CHAT, f"g{n % 3}"), None, draw.randint(0, COMMITS))
                    page.subscribe(f"note {n}", Topic(NOTE, f"g{n % 3}"), None, draw.randint(0, COMMITS))
                page.subscribe("from the start", Topic(CHAT, "g0"), None, 0)
                starts = {name: one.since.number for name, one in page.subscriptions.items()}
                await page.until_live()
                resets = resets_of(page)
                assert set(resets.values()) == {"too_old"}
                assert resets.keys() < {name for name in starts if not name.startswith("note")}
                for name, since in starts.items():
                    if name not in resets:
                        group_id = page.subscriptions[name].topic.group_id
                        wanted = [n for n in range(since + 1, COMMITS + 1) if f"g{n % 3}" == group_id]
                        assert [position for position, _ in page.told(name)] == wanted, name
                for table in TABLES.values():
                    await sql.execute(f"update streams.{table} set data = data || '{{\"more\": 1}}'")
                for name in resets:
                    group_id = page.subscriptions[name].topic.group_id
                    rows = await sql.fetch(
                        "select id, (data ->> 'n')::int from streams.chat_message where group_id = $1", group_id
                    )
                    await eventually(lambda name=name, rows=rows: known_to(page, name) == dict(map(tuple, rows)))


@pytest.mark.parametrize("is_large", [False, True])
async def test_a_reader_that_was_away_begins_those_again_that_lack_something(database_url: str, is_large: bool) -> None:
    """Live subscribers of that stream; those of another one are told of each commit."""
    async with connected(database_url) as sql:
        with sequencing(database_url):
            await fill(sql)
            async with TwoStreams.on(database_url) as feed:
                page = Page(feed)
                page.subscribe("chat", Topic(CHAT, "g1"))
                page.subscribe("note", Topic(NOTE, "g1"))
                await page.until_live()
                await feed.cut(sql)
                for n in range(3):
                    await sql.execute(f"update streams.note set data = '{{\"n\": {n}}}' where id = '1'")
                    await sql.execute(f"update streams.chat_message set data = '{{\"n\": {n}}}' where group_id = 'g1'")
                if is_large:  # it is read by itself
                    large = "select 'large', i::text, '{}' from generate_series(1, 300) i"
                    await sql.execute(f"insert into streams.chat_message (group_id, id, data) {large}")
                await until_numbered(sql)
                await remove(sql, CHAT, ALL)
                assert await floor_of(sql) > COMMITS
                await feed.mend()
                await eventually(lambda: resets_of(page) == {"chat": "too_old"})
                await eventually(lambda: set(known_to(page, "chat").values()) == {2})
                assert [changes[0]["data"]["n"] for _, changes in page.told("note")] == [0, 1, 2]
                assert page.told("chat") == []


async def test_a_consumer_that_was_passed_over_is_told(database_url: str) -> None:
    """Of the streams that it wants, before it is given anything; one of other streams goes on from the beginning."""
    async with open_consumer_kit(database_url) as kit:
        with numbering(database_url):
            await kit.connection.execute("select streams.declare('note', 'note', '{}')")
            for n in range(4):
                await kit.post(f"a{n}")
                await kit.numbered(n + 1)
            await kit.connection.execute("insert into streams.note (group_id, id, data) values ('g', 'n', '{}')")
            await kit.numbered(5)
        await kit.connection.execute(
            "insert into streams.consumer (name, position, epoch) "
            "select 'mailer', 1, epoch from streams.epoch limit 1; "
            "update streams.consumer set updated_at = '2020-01-01'"
        )
        await begin_walk(kit.connection, CHAT, ALL)
        await remove_changes(kit.connection, CHAT, ALL, after=0, commits_max=3, consumers_away_max=timedelta(days=1))
        with pytest.raises(PositionTooOldError, match=r"set its position in streams\.consumer to 3"):
            await consume(database_url, "mailer", store_effects, streams=[CHAT])
        seen: list[int] = []

        async def note_position(commit: Commit, _: asyncpg.Connection[Any]) -> None:
            seen.append(commit.position)
            if commit.position == 5:
                raise EOFError

        for streams, name in (([NOTE], "of notes"), ([CHAT, NOTE], "of both")):
            with pytest.raises(EOFError):
                await consume(database_url, name, note_position, streams=streams)
        assert seen == [5, 4, 5]
        assert await kit.position("of notes") == BEGINNING


async def test_a_consumer_that_is_passed_over_while_it_works_has_done_nothing(database_url: str) -> None:
    """It was away for longer than it is waited for: what it did with part of a commit is rolled back."""
    async with open_consumer_kit(database_url) as kit:
        with numbering(database_url):
            await kit.post("a")
            await kit.numbered(1)

        async def overtaken(commit: Commit, connection: asyncpg.Connection[Any]) -> None:
            await begin_walk(kit.connection, CHAT, ALL)
            await remove_changes(
                kit.connection, CHAT, ALL, after=0, commits_max=3, consumers_away_max=timedelta(microseconds=1)
            )
            await store_effects(commit, connection)
            await connection.execute("insert into effects (position, seq, pid) values (0, 0, 0)")

        with pytest.raises(PositionTooOldError):
            await consume(database_url, "mailer", overtaken)
        assert (await kit.effects(), await kit.position("mailer")) == ([], BEGINNING)
