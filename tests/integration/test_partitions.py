"""The log's partitions: there is one for whatever is written, and old ones go whole, with nobody missing anything."""

from __future__ import annotations

import itertools
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any, Literal

import asyncpg
import pytest

from tests.harness import RUN
from tests.integration.sequencer_fixtures import Log, connected, sequencing
from tidelog.store.bulk import KEYS_OF_TOPICS, TOUCHED_OF_TOPICS
from tidelog.store.log import FEED_SETTINGS, NUMBER_FEW, Numbering
from tidelog.store.partitions import drop_partitions, make_room, read_partitions
from tidelog.store.retention import forget_events, remove_commits
from tidelog.store.window import numbering_window

HISTORY = "select position, group_id, id, op from streams.chat_message_history order by position, seq"
INSERT = "insert into streams.chat_message (group_id, id, data)"
END = 2**64 - 1
NO_AGE = timedelta(0)
WIDTH = 30_000  # transactions, of the small partitions here: more than other tests of the cluster use up meanwhile


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """The housekeeper's."""
    async with connected(database_url, **FEED_SETTINGS) as connection:
        yield connection


async def bounds(connection: asyncpg.Connection[Any]) -> list[tuple[int, int]]:
    return [(row["low"], row["high"]) for row in await connection.fetch("select low, high from streams.partitions()")]


async def check_whole(connection: asyncpg.Connection[Any]) -> None:
    """From 0 to the end of all transactions there is no gap."""
    found = await bounds(connection)
    assert found[0][0] == 0 and found[-1][1] == END
    assert all(high == low for (_, high), (low, _) in itertools.pairwise(found))


async def next_xid(connection: asyncpg.Connection[Any]) -> int:
    return 1 + int(await connection.fetchval("select pg_current_xact_id()"))


async def make_small(connection: asyncpg.Connection[Any], count: int) -> list[int]:
    """Where partitions of WIDTH transactions begin: `count` of them, in what is ahead and still empty."""
    begin = await next_xid(connection) + count + 10
    places = [begin + n * WIDTH for n in range(count + 1)]
    for place in places:
        assert await connection.fetchval("select streams.cut_partition($1)", place)
    return places


async def spend(connection: asyncpg.Connection[Any], until: int) -> None:
    """Have the transactions below `until` be nobody's."""
    await connection.execute(
        f"do $$ begin while pg_current_xact_id() < '{until - 1}'::xid8 loop commit; end loop; end $$"
    )


async def when_free(asked: Callable[[], Awaitable[int | None]]) -> int:
    """What it answers when it could have the lock, as it can at any time but for moments."""
    while (answer := await asked()) is None:
        pass  # each try is a round trip to the server
    return answer


async def fill(log: Log, connection: asyncpg.Connection[Any], count: int = 4) -> list[int]:
    """Two numbered commits in each of so many partitions, and one behind them; returns where these begin."""
    places = await make_small(log.writer, count)
    numbering = await Numbering.load(connection)
    for n, place in enumerate(places):
        await spend(log.writer, place)
        await log.write(f"{n}a")
        await log.write(f"{n}b", 2)
        await numbering.advance(connection)
    # A transaction in any database of the cluster keeps it from being known that all before it have ended.
    while await connection.fetchval("select streams.numbered_below()") < places[-1]:
        await connection.execute("select streams.send('chatMessage', 'g', null, 'typing', '{}')")
        await numbering.advance(connection)
    return places


async def test_there_is_a_place_for_every_transaction_there_will_ever_be(connection: asyncpg.Connection[Any]) -> None:
    """From the first migration on, though no server runs."""
    await check_whole(connection)


async def test_a_partition_that_is_in_use_is_not_divided(log: Log, connection: asyncpg.Connection[Any]) -> None:
    """That would take looking at all of it while everybody waits."""
    await log.write("one")
    with pytest.raises(asyncpg.ObjectInUseError):
        await connection.execute("select streams.cut_partition($1)", await next_xid(connection))
    await check_whole(connection)


async def test_the_next_partitions_are_made_ahead_and_again_when_their_turn_comes(
    log: Log, connection: asyncpg.Connection[Any]
) -> None:
    """Three of the right size lie before those that wait to be divided."""
    places = await make_small(log.writer, 3)
    await spend(log.writer, places[-1])
    await log.write("behind them")
    made = await connection.fetchval("select streams.make_room($1)", WIDTH)
    assert made and not await connection.fetchval("select streams.make_room($1)", WIDTH)
    here = await next_xid(connection)
    ahead = [(low, high) for low, high in await bounds(connection) if low > here]
    assert [high - low for low, high in ahead[:3]] == [WIDTH] * 3
    await spend(log.writer, ahead[1][0])
    assert await connection.fetchval("select streams.make_room($1)", WIDTH) == 2
    await check_whole(connection)


async def test_nobody_waits_behind_a_request_for_room(log: Log, database_url: str) -> None:
    """While a transaction that has used the log is open for a while, none is made; the next look does."""
    async with connected(database_url, **FEED_SETTINGS) as housekeeper, connected(database_url) as long:
        await long.execute("begin")
        await log.write("long", connection=long)
        while not await long.fetchval("select clock_timestamp() - now() > interval '50 milliseconds'"):
            pass  # each look is a round trip to the server
        assert await make_room(housekeeper, None) is None
        await log.write("another")  # waits for nobody
        await long.execute("commit")
        assert await when_free(lambda: make_room(housekeeper, None))
        await check_whole(housekeeper)


async def test_a_role_that_may_not_make_partitions_does_the_rest_of_its_work(
    log: Log, connection: asyncpg.Connection[Any]
) -> None:
    """The start has warned of it; events that were delivered are removed all the same."""
    role = f"tidelog_test_narrow_{RUN}"
    await log.writer.execute(f"create role {role}; grant usage on schema streams to {role}")
    try:
        await log.writer.execute(
            f"grant select on streams.commit to {role}; grant select, delete on streams.event to {role}"
        )
        await connection.execute(f"set role {role}")
        assert await make_room(connection, None) is None
        assert await drop_partitions(connection) is None
        assert await forget_events(connection, older_than=NO_AGE, rows_max=10) == 0
    finally:
        await connection.execute("reset role")
        await log.writer.execute(f"drop owned by {role}; drop role {role}")


async def test_old_partitions_are_dropped_whole(log: Log, connection: asyncpg.Connection[Any]) -> None:
    """Those whose commits are all removed; the lowest begins at 0 still, for a server whose xids are low."""
    await fill(log, connection)
    before = await log.observer.fetch(HISTORY)
    fast = await read_partitions(connection)
    removed = await remove_commits(connection, 0, older_than=NO_AGE, commits_max=5, left_to=fast)
    assert removed.floor == 5
    stored = "select count(*) from streams.change"
    assert await log.observer.fetchval(stored) == 3 * 5  # unseen, but there
    assert await log.observer.fetch(HISTORY) == [row for row in before if row["position"] > 5]
    before_drop = await bounds(connection)
    kept_xid = await log.observer.fetchval("select min(xid::text::bigint) from streams.commit")
    kept = [one for one in before_drop if one[1] > kept_xid]
    rows_kept = await log.observer.fetchval(f"{stored} where xid >= $1", kept[0][0])
    assert await when_free(lambda: drop_partitions(connection)) == len(before_drop) - len(kept) > 1
    assert await bounds(connection) == [(0, kept[0][0]), *kept]
    assert await log.observer.fetchval(stored) == rows_kept < 3 * 5
    assert await log.observer.fetch(HISTORY) == [row for row in before if row["position"] > 5]
    assert await when_free(lambda: drop_partitions(connection)) == 0
    await check_whole(connection)


async def test_changes_are_left_to_the_partitions_that_go_soon(log: Log, connection: asyncpg.Connection[Any]) -> None:
    """Those whose last commit is nearly old enough, however long it took to fill them; never the one in use."""
    await fill(log, connection)
    before = [each.low for each in await read_partitions(connection)]
    assert len(before) > 2
    hour = timedelta(hours=1)
    first_of_the_second = await log.observer.fetchval(
        "select min(number) from streams.commit where xid >= $1::text::xid8", str(before[1])
    )
    for age, since in ((80, 1), (70, first_of_the_second)):
        await log.writer.execute(
            "update streams.commit set at = clock_timestamp() - $1::interval where number >= $2", age * hour, since
        )
    await log.writer.execute("update streams.commit set at = at - interval '1 year' where number = 1")
    partitions = await read_partitions(connection)
    assert [each.low for each in partitions if each.goes_soon(100 * hour)] == before[:1]
    assert [each.low for each in partitions if each.goes_soon(hour)] == before[:-1]


async def test_a_partition_with_an_unfinished_transaction_stays(
    log: Log, connection: asyncpg.Connection[Any], database_url: str
) -> None:
    """Also if all that is numbered of it was removed: what will be numbered is in it."""
    async with connected(database_url) as long:
        places = await make_small(log.writer, 2)
        await spend(log.writer, places[0])
        numbering = await Numbering.load(connection)
        await log.write("short")
        await long.execute("begin")
        await log.write("long", connection=long)
        await numbering.advance(connection)
        await spend(log.writer, places[1])
        await log.write("behind")
        await numbering.advance(connection)
        await remove_commits(connection, 0, older_than=NO_AGE, commits_max=1, left_to=await read_partitions(connection))
        assert not await drop_partitions(connection)
        await long.execute("commit")
    assert await numbering.advance(connection) == 1
    assert [row["id"] for row in await log.observer.fetch(HISTORY)] == ["behind/1", "long/1"]


async def test_writes_of_a_partition_ahead_are_numbered_and_read(log: Log, database_url: str) -> None:
    """Over the borders of many partitions: each commit once, in its order."""
    places = await make_small(log.writer, 5)
    with sequencing(database_url):
        for n, place in enumerate(places):
            await log.write_numbered(f"{n} at the end of one")
            await spend(log.writer, place)
            await log.write_numbered(f"{n} at the beginning of the next")
    await log.check()
    assert len(await log.observer.fetch(HISTORY)) == 2 * len(places)


@pytest.mark.parametrize(
    "query",
    [
        "select * from streams.chat_message_history where group_id = 'g'",
        "select * from streams.chat_message_history where group_id = 'g' and id = '1a/1'",
    ],
)
async def test_history_of_a_group_is_read_by_the_index_of_groups(
    log: Log, connection: asyncpg.Connection[Any], query: str
) -> None:
    """With the settings that a user has: by its index in each partition, and nothing else of the log."""
    await fill(log, connection)
    await log.writer.execute(
        "insert into streams.chat_message (group_id, id, data) "
        "select 'other ' || n, 'x', '{}' from generate_series(1, 3000) n"
    )
    await log.writer.execute("analyze streams.change; analyze streams.commit")
    plan = "\n".join(row[0] for row in await log.observer.fetch(f"explain {query}"))
    assert "_stream_group_id_xid_idx" in plan or "change_group" in plan
    assert "Seq Scan on streams" not in plan


FILLED = {  # what statistics were taken of
    "nothing": "select",
    "few rows, one group": f"{INSERT} select 'g', i::text, '{{}}' from generate_series(1, 300) i",
    "one group": "do $$ begin set synchronous_commit = off; "
    "for i in 1..2000 loop insert into streams.chat_message (group_id, id, data) "
    "values ('g', i, '{}'); commit; end loop; end $$",
    "one large commit": f"{INSERT} select 'g' || i % 7, i::text, '{{}}' from generate_series(1, 5000) i",
    "events": "select count(streams.send('chatMessage', 'g', null, 't', '{}')) from generate_series(1, 3000)",
}


@pytest.mark.parametrize("filled", FILLED)
@pytest.mark.parametrize("table", ["change", "event"])
async def test_topics_of_a_large_commit_are_looked_up_whatever_the_statistics_say(
    log: Log, connection: asyncpg.Connection[Any], table: Literal["change", "event"], filled: str
) -> None:
    """By the index of groups: by the key each lookup would read all rows of the commit."""
    await log.writer.execute(FILLED[filled])
    await log.writer.execute("analyze streams.change; analyze streams.event; analyze streams.commit")
    for statement, types, arguments in (
        (TOUCHED_OF_TOPICS[table], "xid8, text[], text[]", "'1000000', '{chatMessage}', '{g}'"),
        (KEYS_OF_TOPICS[table], "xid8, text[], text[], int8", "'1000000', '{chatMessage}', '{g}', 16"),
    ):
        await connection.execute(f"prepare lookup ({types}) as {statement}")
        plan = "\n".join(row[0] for row in await connection.fetch(f"explain execute lookup ({arguments})"))
        await connection.execute("deallocate lookup")
        looked_up = [line for line in plan.splitlines() if "Index Cond" in line]
        assert looked_up and all("group_id" in line and "xid" in line for line in looked_up), plan


async def test_a_partition_that_cannot_hold_what_is_asked_for_is_not_looked_at(
    log: Log, connection: asyncpg.Connection[Any]
) -> None:
    """By the sequencer's statement: those before the last look, and those ahead but the next, aren't even locked."""
    await fill(log, connection)
    numbering = await Numbering.load(connection)
    statement = (await numbering_window(connection, numbering.snapshot)).apply(NUMBER_FEW)
    await connection.execute(f"prepare numbering (text, int8, timestamptz, int8, int8, bool) as {statement}")
    plan = "\n".join(
        row[0]
        for row in await connection.fetch(
            f"explain (analyze, costs off, timing off, summary off) execute numbering "
            f"('{numbering.snapshot}', {numbering.number}, '{numbering.at.isoformat()}', 1000, 10, false)"
        )
    )
    planned = {int(low) for low in re.findall(r'Scan using .* on "change~(\d+)"', plan)}
    xmin = int(numbering.snapshot.split(":")[0])
    here = await next_xid(connection)
    found = await bounds(connection)
    may = {low for low, high in found if low < here and high > xmin} | {min(low for low, _ in found if low >= here)}
    assert planned and planned <= may, plan


async def test_numbering_goes_on_from_partition_to_partition(log: Log, connection: asyncpg.Connection[Any]) -> None:
    """Its statements are planned for the present one and the next; also with a transaction that is open for long."""
    places = await make_small(log.writer, 6)
    numbering = await Numbering.load(connection)
    for n, place in enumerate(places):
        await spend(log.writer, place)
        await log.write(f"{n}")
        if n % 3:
            assert await numbering.advance(connection) == (2 if n % 3 == 1 else 1)
    assert await numbering.advance(connection) == 1
    await log.check()


ERA = 2**48


@pytest.mark.parametrize(
    ("xid", "head", "was"),
    [
        (19, 25, True), (20, 25, False), (22, 25, True), (30, 25, False),
        (5, None, None),
        (19, ERA + 25, True), (40, ERA + 25, True), (ERA + 19, ERA + 25, True), (ERA + 20, ERA + 25, False),
        (2 * ERA, ERA + 25, False), (ERA, 25, False),
        (2**63 + 5, 25, True), (2**63 + 5, ERA + 25, True), (2**63 + 5, 2**63 + 9, True),
        (19, 2**63 + 9, True), (20, 2**63 + 9, False), (ERA + 1, 2**63 + 9, False),
    ],
)  # fmt: skip
async def test_whether_a_transaction_had_a_number_is_told_by_the_newest_snapshot(
    connection: asyncpg.Connection[Any], xid: int, head: int | None, was: bool | None
) -> None:
    """In each era: 20 was under way, 30 was still to come."""
    query = "select streams.was_numbered($1, $2, case when $2::xid8 is not null then '20:30:20'::pg_snapshot end)"
    assert await connection.fetchval(query, xid, head) is was
