"""Retention of a stream: its old changes go, or all but the last of each item; other streams keep theirs."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from datetime import timedelta
from typing import Any, TypeAlias

import asyncpg
import pytest
from litestar import Litestar

from tests.integration.sequencer_fixtures import WAIT_SECONDS, Log, connected
from tidelog import Stream, TidelogConfig, TidelogPlugin
from tidelog.model.retention import StreamRetention
from tidelog.store.log import Numbering
from tidelog.store.retention import read_floor, read_stream_floors, remove_commits
from tidelog.store.stream_retention import begin_walk, remove_changes

NO_AGE = timedelta(0)
HOUR = timedelta(hours=1)
AN_HOUR = StreamRetention(seconds=3600)
LAST_TWO = StreamRetention(changes=2)
CHAT, NOTE = "chatMessage", "note"

Connection: TypeAlias = "asyncpg.Connection[Any]"


@pytest.fixture(autouse=True)
async def note(log: Log) -> None:
    """A second stream, as a migration makes it."""
    for made in ("declare('note', 'note', '{}')", "make_expiring('note', null)", "make_time_travel('note', 'note')"):
        await log.writer.execute(f"select streams.{made}")


async def write(log: Log, connection: Connection, *statements: str) -> None:
    """Each a commit, with the numbers that come next."""
    numbering = await Numbering.load(connection)
    for statement in statements:
        await log.writer.execute(statement)
    await numbering.advance(connection)


def put(id: str, text: object, *, group: str = "g", table: str = "chat_message") -> str:
    return (
        f"insert into streams.{table} (group_id, id, data) values ('{group}', '{id}', '{{\"text\": \"{text}\"}}') "
        "on conflict (group_id, id) do update set data = excluded.data"
    )


def note_of(id: str, text: object) -> str:
    return put(id, text, table="note")


async def age(log: Log, *, up_to: int) -> None:
    await log.writer.execute("update streams.commit set at = at - interval '2 hours' where number <= $1", up_to)


async def history(log: Log, table: str = "chat_message") -> list[tuple[int, str]]:
    rows = await log.observer.fetch(f"select position, id from streams.{table}_history order by position, seq")
    return [(row["position"], row["id"]) for row in rows]


async def remove(
    connection: Connection, stream: str, kept: StreamRetention, *, commits_max: int = 1000, steps_max: int = 1000
) -> int:
    """Some steps of a walk, from where the last one was; how many changes went."""
    removed, more = 0, True
    while more and steps_max:
        after = max(await begin_walk(connection, stream, kept), await read_floor(connection))
        step = await remove_changes(connection, stream, kept, after=after, commits_max=commits_max, age_min=NO_AGE)
        removed, more, steps_max = removed + step.removed, step.more, steps_max - 1
    return removed


async def floor_of(log: Log, stream: str) -> int:
    floor: int = await log.observer.fetchval("select streams.floor($1)", stream)
    return floor


async def test_old_changes_of_the_stream_go_and_others_stay(log: Log, connection: Connection) -> None:
    """Also those of the same commit; the commits, the items and the newer changes stay, and the floor says how far."""
    both = f"with one as ({put('both', 1)} returning 1) {note_of('both', 1)}"
    await write(log, connection, put("a", 1), note_of("n", 1), both, note_of("n", 2), put("a", 2), put("b", 1))
    items = await log.observer.fetch("select * from streams.chat_message order by id")
    await age(log, up_to=4)
    assert await remove(connection, CHAT, AN_HOUR, commits_max=2) == 2
    assert await history(log) == [(5, "a"), (6, "b")]
    assert await history(log, "note") == [(2, "n"), (3, "both"), (4, "n")]
    assert await read_stream_floors(connection) == {CHAT: 3}
    assert (await floor_of(log, CHAT), await floor_of(log, NOTE), await read_floor(connection)) == (3, 0, 0)
    assert await log.observer.fetch("select * from streams.chat_message order by id") == items
    assert len(await log.commits()) == 6


async def test_the_last_changes_of_each_item_stay(log: Log, connection: Connection) -> None:
    """However old; of another item, and of a group with the same item's id, others do."""
    await write(
        log,
        connection,
        *(put("a", n) for n in range(4)),
        put("quiet", 1),
        *(put("a", n, group="other") for n in range(3)),
        *(note_of("a", n) for n in range(4)),
        put("a", 5),
    )
    assert await remove(connection, CHAT, LAST_TWO) == 3 + 1
    assert await history(log) == [(4, "a"), (5, "quiet"), (7, "a"), (8, "a"), (13, "a")]
    assert len(await history(log, "note")) == 4
    assert await floor_of(log, CHAT) == 6
    assert await remove(connection, CHAT, LAST_TWO) == 0


async def test_an_items_last_changes_are_those_made_last(log: Log, connection: Connection, database_url: str) -> None:
    """Not those of the latest transactions: a transaction that began earlier may write later."""
    async with connected(database_url) as early:
        transaction = early.transaction()
        await transaction.start()
        await early.execute(note_of("first", 1))  # it has its xid
        await write(log, connection, *(put("a", n) for n in range(3)))
        await early.execute(put("a", "last"))
        await transaction.commit()
    await write(log, connection)
    await remove(connection, CHAT, StreamRetention(changes=1))
    rows = await log.observer.fetch("select position, data ->> 'text' as text from streams.chat_message_history")
    assert [tuple(row) for row in rows] == [(4, "last")]


async def test_what_is_deleted_leaves_its_last_changes(log: Log, connection: Connection) -> None:
    """Of which the delete is one."""
    await write(
        log,
        connection,
        put("a", 1),
        "delete from streams.chat_message",
        put("a", 2),
        "delete from streams.chat_message",
    )
    await remove(connection, CHAT, LAST_TWO)
    assert await history(log) == [(3, "a"), (4, "a")]


async def test_random_histories_keep_what_each_stream_should(log: Log, connection: Connection, seed: int) -> None:
    """Two streams with different retentions, removed in small steps between the writes."""
    draw = random.Random(seed)  # noqa: S311 - no secret
    kept = StreamRetention(changes=3)
    for _ in range(12):
        statements = []
        for n in range(8):
            group, id = draw.choice("gh"), draw.choice("abc")
            statements.append(put(id, f"{draw.random()}", group=group, table=draw.choice(["chat_message", "note"])))
            if n % 7 == 3:
                statements.append(f"delete from streams.chat_message where group_id = '{group}' and id = '{id}'")
        await write(log, connection, *statements)
        await remove(connection, CHAT, kept, commits_max=draw.randint(1, 9), steps_max=draw.randint(0, 3))
        await age(log, up_to=draw.randint(0, 8))
        await remove(connection, NOTE, AN_HOUR, commits_max=draw.randint(1, 9), steps_max=2)
    await remove(connection, CHAT, kept, commits_max=5)
    rows = await log.observer.fetch("select position, group_id, id, op from streams.chat_message_history order by seq")
    left = defaultdict(list)
    for row in rows:
        left[row["group_id"], row["id"]].append(row)
    lives = [[row["op"] for row in item] for item in left.values()]
    # An item that was deleted and created anew counts from one again, and may have up to twice as many.
    assert all(len(ops) <= 3 or ("delete" in ops and len(ops) <= 6) for ops in lives), lives
    floor = await floor_of(log, CHAT)
    logged = await log.observer.fetchval(
        "select count(*) from streams.change c join streams.commit n using (xid) where stream = $1 and number > $2",
        CHAT,
        floor,
    )
    assert logged == sum(row["position"] > floor for row in rows)
    # The items are the fold of what is left of each.
    last = {key: item[-1]["op"] for key, item in left.items()}
    items = await log.observer.fetch("select group_id, id from streams.chat_message")
    assert {tuple(item) for item in items} == {key for key, op in last.items() if op != "delete"}


async def test_what_a_consumer_has_still_to_read_stays(log: Log, connection: Connection) -> None:
    """Until it is removed, or away for longer than it may be."""
    await write(log, connection, *(put("a", n) for n in range(6)))
    await log.writer.execute("insert into streams.consumer (name, position, epoch) values ('c', 3, gen_random_uuid())")
    assert await remove(connection, CHAT, StreamRetention(changes=1)) == 3
    await age(log, up_to=6)
    assert await remove(connection, CHAT, AN_HOUR) == 0
    assert [position for position, _ in await history(log)] == [4, 5, 6]
    step = await remove_changes(connection, CHAT, AN_HOUR, after=3, commits_max=100, consumers_away_max=NO_AGE)
    assert step.removed == 3


async def test_a_walk_goes_on_where_it_was_and_by_another_rule_begins_anew(log: Log, connection: Connection) -> None:
    """Fewer changes are kept from now on: also of items that don't change any more."""
    await write(log, connection, *(put(id, n) for id in "ab" for n in range(4)))
    await remove(connection, CHAT, StreamRetention(changes=3))
    assert await begin_walk(connection, CHAT, StreamRetention(changes=3)) == 8
    assert await begin_walk(connection, CHAT, StreamRetention(changes=1)) == 0
    await remove(connection, CHAT, StreamRetention(changes=1))
    assert await history(log) == [(4, "a"), (8, "b")]


async def test_the_logs_own_floor_is_every_streams(log: Log, connection: Connection) -> None:
    """Whichever is later."""
    await write(log, connection, *(put("a", n) for n in range(3)), *(note_of("n", n) for n in range(3)))
    await remove(connection, CHAT, StreamRetention(changes=1))
    assert (await floor_of(log, CHAT), await floor_of(log, NOTE), await floor_of(log, "nobody's")) == (2, 0, 0)
    await remove_commits(connection, 0, older_than=NO_AGE, commits_max=4)
    assert (await floor_of(log, CHAT), await floor_of(log, NOTE), await floor_of(log, "nobody's")) == (4, 4, 4)
    await write(log, connection, put("a", 9))
    await remove(connection, CHAT, StreamRetention(changes=1))
    assert (await floor_of(log, CHAT), await history(log)) == (4, [(7, "a")])


async def test_a_step_that_is_broken_off_removed_nothing(log: Log, connection: Connection, database_url: str) -> None:
    """The floor is raised with the removal, or neither is done; the next step does both."""
    await write(log, connection, *(put("a", n) for n in range(4)))
    await begin_walk(connection, CHAT, LAST_TWO)
    async with connected(database_url) as killed, connected(database_url) as eraser:
        transaction = eraser.transaction()
        await transaction.start()
        await eraser.execute("update streams.change set data = '{}'")
        with pytest.raises(asyncpg.LockNotAvailableError):  # it waits for nobody who erases
            await remove_changes(killed, CHAT, LAST_TWO, after=0, commits_max=10, age_min=NO_AGE)
        await transaction.rollback()
        transaction = killed.transaction()
        await transaction.start()
        assert (await remove_changes(killed, CHAT, LAST_TWO, after=0, commits_max=10, age_min=NO_AGE)).removed == 2
        assert await read_stream_floors(connection) == {}
    assert len(await history(log)) == 4
    assert await remove(connection, CHAT, LAST_TWO) == 2
    assert await read_stream_floors(connection) == {CHAT: 2}


@pytest.mark.parametrize("kept", [AN_HOUR, LAST_TWO])
async def test_reads_of_the_past_are_of_what_is_left_whole(
    log: Log, connection: Connection, kept: StreamRetention
) -> None:
    """As of each position from the stream's floor on; one of before is refused, also though some of it is left."""
    await write(log, connection, *(put(id, n) for n in range(4) for id in ("ab" if n % 2 else "abc")), note_of("n", 1))
    as_of = "select group_id, id, version, data ->> 'text' from streams.chat_message_as_of($1::bigint)"
    head = len(await log.commits())
    before = [{tuple(row) for row in await log.observer.fetch(as_of, p)} for p in range(head + 1)]
    await age(log, up_to=4)
    assert await remove(connection, CHAT, kept)
    floor = await floor_of(log, CHAT)
    assert 0 < floor < head
    for position in range(floor, head + 1):
        found = {tuple(row) for row in await log.observer.fetch(as_of, position)}
        known = {row for row in found if row[3] is not None}
        assert known <= before[position] and {row[:3] for row in found} == {row[:3] for row in before[position]}
    assert floor < head and found == before[head]
    diff = "select id from streams.chat_message_diff($1::bigint, $2::bigint)"
    for query, *positions in ((as_of, floor - 1), (diff, floor - 1, head)):
        with pytest.raises(
            asyncpg.InvalidParameterValueError, match=f"position {floor - 1} of stream chatMessage"
        ) as told:
            await log.observer.fetch(query, *positions)
        assert told.value.constraint_name == "position_too_old"
    assert await log.observer.fetch("select from streams.note_as_of(0::bigint)") == []


@pytest.mark.filterwarnings("ignore::litestar.exceptions.LitestarDeprecationWarning")
async def test_a_server_keeps_two_streams_each_as_declared(log: Log, connection: Connection, database_url: str) -> None:
    """While numbering goes on."""
    await write(log, connection, *(put("a", n) for n in range(4)), *(note_of("n", n) for n in range(4)), put("a", 9))
    await age(log, up_to=6)
    streams = [Stream(CHAT, retention={"changes": 2}), Stream(NOTE, retention=3600)]
    plugin = TidelogPlugin(TidelogConfig(database_url=database_url, streams=streams))
    async with Litestar(plugins=[plugin], logging_config=None).lifespan():
        async with asyncio.timeout(WAIT_SECONDS):
            while await read_stream_floors(connection) != {CHAT: 3, NOTE: 6}:
                pass  # each look is a round trip to the server
        assert await log.write_numbered("new") == 10
    assert await history(log) == [(4, "a"), (9, "a"), (10, "new/1")]
    assert await history(log, "note") == [(7, "n"), (8, "n")]
