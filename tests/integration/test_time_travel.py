"""Time travel in SQL: items as of a position or a time, what changed between two, of a log without its beginning."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.integration.sequencer_fixtures import Log
from tests.migrations.test_group_roles import login, url_as
from tidelog.store.log import Numbering
from tidelog.store.partitions import drop_partitions, read_partitions
from tidelog.store.retention import read_floor, remove_commits

Key = tuple[str, str]

KEYS = [("a", "1"), ("a", "2"), ("b", "1")]
SET = (
    "insert into streams.chat_message (group_id, id, data) values ($1, $2, jsonb_build_object('n', $3::int)) "
    "on conflict (group_id, id) do update set data = excluded.data"
)
DELETE = "delete from streams.chat_message where group_id = $1 and id = $2"
AS_OF = "select group_id, id, data ->> 'n' as n, version, position from streams.chat_message_as_of($1::bigint)"
DIFF = (
    "select group_id, id, op, before ->> 'n' as before, after ->> 'n' as after, version_before, version_after "
    "from streams.chat_message_diff($1::bigint, $2::bigint)"
)

PARTITIONS = 4  # cut for each example
ERASE = -1

# None deletes; few values, so that items are often what they were before.
writes = st.tuples(st.sampled_from(KEYS), st.none() | st.integers(ERASE, 2))
transactions = st.lists(st.lists(writes, min_size=1, max_size=4), min_size=1, max_size=7)


@dataclass(frozen=True)
class Change:
    position: int  # without a number: past the last one
    op: str
    n: int | None  # None: erased
    version: int

    @property
    def told(self) -> str | None:
        return None if self.n is None else str(self.n)


@dataclass
class Model:
    """What happened to each item, replayed."""

    floor: int
    changes: dict[Key, list[Change]] = field(default_factory=dict)

    def write(self, position: int, key: Key, n: int | None) -> bool:
        """Whether it changed something."""
        history = self.changes.setdefault(key, [])
        last = history[-1] if history and history[-1].op != "delete" else None
        if last is None and n is not None:
            history.append(Change(position, "create", n, 1))
        elif last is not None and n is None:
            history.append(Change(position, "delete", last.n, last.version))
        elif last is not None and n != last.n:
            history.append(Change(position, "update", n, last.version + 1))
        else:
            return False
        return True

    def erase(self, position: int, key: Key) -> bool:
        """What the item was is nowhere any more, but that it was; whether it was deleted."""
        changed = self.write(position, key, None)
        self.changes[key] = [replace(change, n=None) for change in self.changes[key]]
        return changed

    def last(self, key: Key, position: int) -> Change | None:
        """The change by which the item is there as of the position, whether it is kept or not."""
        made = [change for change in self.changes[key] if change.position <= position][-1:]
        return made[0] if made and made[0].op != "delete" else None

    def is_known(self, key: Key, position: int) -> bool:
        """Whether what the item was can be told: from its change, from its deletion, or from the table."""
        made = self.last(key, position)
        later = [change for change in self.changes[key] if change.position > position]
        return made is None or made.position > self.floor or not later or later[0].op == "delete"

    def as_of(self, position: int) -> set[tuple[Any, ...]]:
        found = set()
        for key in self.changes:
            made = self.last(key, position)
            if made is not None:
                n = made.told if self.is_known(key, position) else None
                found.add((*key, n, made.version, made.position if made.position > self.floor else None))
        return found

    def diff(self, begin: int, end: int) -> set[tuple[Any, ...]]:
        found = set()
        for key, changes in self.changes.items():
            between = [change for change in changes if begin < change.position <= end]
            before, after = self.last(key, begin), self.last(key, end)
            if not between or (before is None and after is None):
                continue
            is_known = before is None or before.position > self.floor or between[0].op == "delete"
            if before and after and is_known and before.n == after.n:
                continue
            op = "create" if before is None else "delete" if after is None else "update"
            found.add(
                (
                    *key, op, before.told if before and is_known else None, after.told if after else None,
                    before and before.version, after and after.version,
                )
            )  # fmt: skip
        return found


async def begin_anew(log: Log) -> None:
    await log.writer.execute(
        "delete from streams.chat_message; truncate streams.change; truncate streams.event; truncate streams.commit"
    )


async def cut(log: Log, width: int) -> None:
    """Let the transactions that come be in partitions of so few."""
    begin = await log.writer.fetchval("select pg_current_xact_id()") + PARTITIONS + 2
    for n in range(PARTITIONS):
        await log.writer.execute("select streams.cut_partition($1)", begin + n * width)


async def write(log: Log, position: int, model: Model, transaction: Iterable[tuple[Key, int | None]]) -> bool:
    changed = False
    async with log.writer.transaction():
        for key, n in transaction:
            if n == ERASE:
                changed |= model.erase(position, key)
                await log.writer.execute("select streams.erase('chatMessage', $1, $2)", *key)
                continue
            changed |= model.write(position, key, n)
            await (log.writer.execute(DELETE, *key) if n is None else log.writer.execute(SET, *key, n))
    return changed


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    numbered=transactions,
    unnumbered=transactions,
    removed=st.integers(0, 5),
    width=st.integers(1, 10),
    erased=st.lists(st.sampled_from(KEYS), max_size=2),
)
# What the first commit did waits for its partition, which the second one is in, too, to be dropped.
@example(
    numbered=[[(("a", "1"), 0)], [(("a", "1"), None)]], unnumbered=[[(("a", "1"), 1)]], removed=1, width=10, erased=[]
)
async def test_as_of_and_diff_are_what_a_replay_says(
    log: Log,
    connection: asyncpg.Connection[Any],
    numbered: list[list[tuple[Key, int | None]]],
    unnumbered: list[list[tuple[Key, int | None]]],
    removed: int,
    width: int,
    erased: list[Key],
) -> None:
    """At every position that is kept; what is not kept is null and never made up; what has no number is not there.

    However the log is divided, with the partitions dropped of which nothing is kept, and whatever is erased when.
    """
    await begin_anew(log)
    await cut(log, width)
    numbering = await Numbering.load(connection)
    model, position = Model(0), 0
    for transaction in numbered:
        position += await write(log, position + 1, model, transaction)
        await numbering.advance(connection)
    for transaction in unnumbered:
        await write(log, position + 1, model, transaction)
    left = await read_partitions(connection) if removed % 2 else ()  # removed with their partitions, or one by one
    await remove_commits(connection, 0, older_than=timedelta(seconds=-60), commits_max=removed, left_to=left)
    await drop_partitions(connection)
    await write(log, position + 1, model, [(key, ERASE) for key in erased])
    model.floor = await log.observer.fetchval("select streams.floor()")
    assert model.floor == await read_floor(connection) == max(0, min(removed, position - 1))
    for at in range(model.floor, position + 1):
        assert {tuple(row) for row in await log.observer.fetch(AS_OF, at)} == model.as_of(at), at
        for end in range(at, position + 1):
            assert {tuple(row) for row in await log.observer.fetch(DIFF, at, end)} == model.diff(at, end), (at, end)


@dataclass(frozen=True)
class Kept:
    """Six commits, of which two are removed."""

    log: Log
    times: Mapping[int, Any]  # of the kept ones


@pytest.fixture
async def kept(log: Log, connection: asyncpg.Connection[Any]) -> AsyncIterator[Kept]:
    numbering = await Numbering.load(connection)
    for n in range(6):
        await log.writer.execute(SET, "a", "1", n)
        await numbering.advance(connection)
    await remove_commits(connection, 0, older_than=timedelta(seconds=-60), commits_max=2)
    rows = await log.observer.fetch("select number, at from streams.commit")
    yield Kept(log, {row["number"]: row["at"] for row in rows})


async def test_a_time_is_the_last_commit_at_or_before_it(kept: Kept) -> None:
    """To the microsecond; one that is still to come is the head."""
    n_at = "select data ->> 'n' from streams.chat_message_as_of($1::timestamptz)"
    moment = timedelta(microseconds=1)
    for number in range(3, 7):
        assert await kept.log.observer.fetchval(n_at, kept.times[number]) == str(number - 1)
        assert await kept.log.observer.fetchval(n_at, kept.times[number] + moment) == str(number - 1)
    assert await kept.log.observer.fetchval(n_at, kept.times[6] + timedelta(days=1)) == "5"
    rows = await kept.log.observer.fetch(
        "select before ->> 'n', after ->> 'n' from streams.chat_message_diff($1::timestamptz, $2::timestamptz)",
        kept.times[4], kept.times[6],
    )  # fmt: skip
    assert [tuple(row) for row in rows] == [("3", "5")]


@pytest.mark.parametrize(
    ("sql", "cause"),
    [
        ("select * from streams.chat_message_as_of(1)", "position_too_old"),
        ("select * from streams.chat_message_as_of(7)", "position_foreign"),
        ("select * from streams.chat_message_as_of(-1)", "position_invalid"),
        ("select * from streams.chat_message_as_of(null::bigint)", "position_invalid"),
        ("select * from streams.chat_message_as_of(null::timestamptz)", "position_invalid"),
        ("select * from streams.chat_message_as_of(now() - interval '1 day')", "position_too_old"),
        ("select * from streams.chat_message_as_of('-infinity'::timestamptz)", "position_too_old"),
        ("select * from streams.chat_message_as_of(1) where group_id = 'nobody'", "position_too_old"),
        ("select count(*) from streams.chat_message_as_of(7) where id = 'nothing'", "position_foreign"),
        ("select * from streams.chat_message_diff(1, 6)", "position_too_old"),
        ("select * from streams.chat_message_diff(3, 7)", "position_foreign"),
        ("select * from streams.chat_message_diff(5, 4) where group_id = 'nobody'", "position_invalid"),
        ("select * from streams.chat_message_diff(now(), now() - interval '1 hour')", "position_too_old"),
        ("select * from streams.chat_message_diff(now(), now() - interval '1 microsecond')", "position_invalid"),
    ],
)
async def test_a_position_that_is_not_kept_is_an_error(kept: Kept, sql: str, cause: str) -> None:
    """Also where nothing would have been found: never an answer that only looks right."""
    with pytest.raises(asyncpg.InvalidParameterValueError) as caught:
        await kept.log.observer.fetch(sql)
    assert caught.value.constraint_name == cause


async def test_before_everything_there_was_nothing(log: Log) -> None:
    """Position 0, and any time of before the first commit, while nothing was removed; also of an empty log."""
    assert await log.observer.fetch("select * from streams.chat_message_as_of(0)") == []
    assert await log.observer.fetch("select * from streams.chat_message_as_of(now())") == []
    assert await log.observer.fetch("select * from streams.chat_message_as_of('-infinity'::timestamptz)") == []
    assert await log.observer.fetch("select * from streams.chat_message_diff(0, 0)") == []


@pytest.mark.parametrize(
    ("sql", "conditions"),
    [
        ("select * from streams.chat_message_as_of({head}) where group_id = 'g7'", ["group_id"]),
        ("select * from streams.chat_message_as_of({head}) where group_id = 'g7' and id = 'i7'", ["group_id", "id"]),
        ("select * from streams.chat_message_as_of(now()) where group_id = 'g7'", ["group_id"]),
        ("select count(*) from streams.chat_message_as_of(now()) where group_id = 'g7' and id > 'i'", ["group_id"]),
        ("select * from streams.chat_message_diff(0, {head}) where group_id = 'g7'", ["group_id"]),
        ("select * from streams.chat_message_diff(0, {head}) where group_id = 'g7' and id = 'i7'", ["group_id", "id"]),
    ],
)
async def test_a_condition_on_group_and_id_is_looked_up_in_the_log(
    log: Log, connection: asyncpg.Connection[Any], sql: str, conditions: list[str]
) -> None:
    """The functions are part of the query that calls them: no plan calls one, or reads all of the log."""
    await log.writer.execute(
        "insert into streams.chat_message (group_id, id, data) select 'g' || i % 500, 'i' || i, '{}' "
        "from generate_series(1, 5000) i"
    )
    await (await Numbering.load(connection)).advance(connection)
    await log.writer.execute("analyze streams.change; analyze streams.commit; analyze streams.chat_message")
    rows = await log.observer.fetch("explain (costs off) " + sql.format(head=1))
    plan = "\n".join(row[0] for row in rows)
    assert "chat_message_as_of" not in plan and "chat_message_diff" not in plan, plan
    assert "Seq Scan on change" not in plan, plan
    assert "Function Scan on position_of" in plan or "Function Scan on span_of" in plan, plan
    looked_up = [line for line in plan.splitlines() if "Index Cond" in line and "group_id" in line]
    # The second line is what a diff looks up of each item that it found.
    assert "'g7'" in looked_up[0] and all("'g7'" in line or "f.group_id" in line for line in looked_up), plan
    if "id" in conditions:
        assert "(id)::text = 'i7'" in plan or "id = 'i7'" in plan, plan


async def test_who_may_read_history_may_travel(log: Log, database_url: str) -> None:
    """A member of tidelog_reader; one of tidelog_writer, who can't read the log, may not."""
    await log.write("x")
    for group, may in (("tidelog_reader", True), ("tidelog_writer", False)):
        async with login(log.writer, f"travels_{group[8:]}", f"in role {group}") as name:
            connection = await asyncpg.connect(url_as(database_url, name))
            try:
                for sql in (
                    "select * from streams.chat_message_as_of(0)",
                    "select * from streams.chat_message_diff(0, 0)",
                ):
                    if may:
                        await connection.fetch(sql)
                    else:
                        with pytest.raises(asyncpg.InsufficientPrivilegeError):
                            await connection.fetch(sql)
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.fetch("select * from streams.change")
            finally:
                await connection.close()
