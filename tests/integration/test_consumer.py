"""Durable consumers: what they are handed, and what stays of it."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, suppress
from typing import Any

import asyncpg
import pytest

import tidelog.consumer
from tests.consumer_floor import ConsumerFloor, consuming, numbering, open_consumer_floor, store_effects
from tests.harness import Databases, lift_limits
from tidelog.consumer import Change, Commit, consume
from tidelog.errors import (
    PositionForeignError,
    PositionTooOldError,
    StreamsNotMigratedError,
    StreamUnknownError,
    TransactionAbortedError,
)
from tidelog.json_text import write

WAIT_SECONDS = 90


@pytest.fixture
async def floor(database_url: str) -> AsyncIterator[ConsumerFloor]:
    async with open_consumer_floor(database_url) as floor:
        yield floor


@pytest.fixture
def numbered(floor: ConsumerFloor) -> Iterator[None]:
    with numbering(floor.url):
        yield


class Recorder:
    """A handler that hands what it gets to the test."""

    def __init__(self) -> None:
        self.seen: asyncio.Queue[tuple[int, list[Change]]] = asyncio.Queue()

    async def __call__(self, commit: Commit, _: asyncpg.Connection[Any]) -> None:
        self.seen.put_nowait((commit.position, [change async for change in commit]))

    async def next(self) -> tuple[int, list[Change]]:
        async with asyncio.timeout(WAIT_SECONDS):
            return await self.seen.get()


class FailsOnce:
    """Stores effects, but does something else instead at the first time that it gets to `position`."""

    def __init__(self, position: int) -> None:
        self.position = position
        self.failed = False

    async def __call__(self, commit: Commit, connection: asyncpg.Connection[Any]) -> None:
        await store_effects(commit, connection)
        if commit.position == self.position and not self.failed:
            self.failed = True
            await self.fail(commit, connection)

    async def fail(self, commit: Commit, connection: asyncpg.Connection[Any]) -> None:
        raise LookupError("the handler failed")


async def run_until_raised(floor: ConsumerFloor, handler: Any = store_effects, **options: Any) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        await consume(floor.url, "mailer", handler, **options)


async def test_every_change_is_handed_out_whole_and_in_order(floor: ConsumerFloor, numbered: None) -> None:
    """A commit's changes come together, as they were written, with the item's data; then the next commit's."""
    recorder = Recorder()
    await floor.post("a", "b")
    await floor.numbered(1)
    await floor.connection.execute("""update streams.chat_message set data = '{"text": "bye"}' where id = 'b'""")
    await floor.numbered(2)
    await floor.connection.execute("delete from streams.chat_message where id = 'a'")
    async with consuming(floor.url, "mailer", recorder):
        commits = [await recorder.next() for _ in range(3)]
    assert [position for position, _ in commits] == [1, 2, 3]
    (created_a, created_b), (updated,), (deleted,) = (changes for _, changes in commits)
    assert (created_a.op, created_a.stream, created_a.group_id, created_a.id) == (
        "create",
        "chatMessage",
        "general",
        "a",
    )
    assert (created_b.op, created_b.id, created_b.version) == ("create", "b", 1)
    assert (updated.op, updated.version, updated.data) == ("update", 2, {"id": "b", "text": "bye"})
    assert (deleted.op, deleted.data) == ("delete", {"id": "a", "text": "hello"})
    assert created_a.seq < created_b.seq < updated.seq < deleted.seq


async def test_effects_are_stored_once_for_each_change(floor: ConsumerFloor, numbered: None) -> None:
    """A consumer that is stopped and started again goes on where its effects end."""
    for number in range(1, 4):
        await floor.post(f"a{number}", f"b{number}")
        await floor.numbered(number)
    async with consuming(floor.url, "mailer"):
        await floor.until_position("mailer", 3)
    await floor.post("c")
    async with consuming(floor.url, "mailer", start="beginning"):
        await floor.until_position("mailer", 4)
    assert await floor.effects() == await floor.log()


async def test_only_the_named_streams_and_groups_are_handed_out(floor: ConsumerFloor, numbered: None) -> None:
    """Of a commit with several groups only the wanted changes come; commits without any don't come, and are passed."""
    recorder = Recorder()
    await floor.post("elsewhere", group="random")
    await floor.numbered(1)
    async with floor.connection.transaction():
        await floor.post("other", group="random")
        await floor.post("wanted", group="general")
    await floor.post("elsewhere-again", group="random")
    async with consuming(floor.url, "mailer", recorder, streams=["chatMessage"], groups=["general", "vip"]):
        position, changes = await recorder.next()
        assert (position, [change.id for change in changes]) == (2, ["wanted"])
        await floor.numbered(3)
        await floor.post("last", group="vip")
        position, changes = await recorder.next()
        assert (position, [change.id for change in changes]) == (4, ["last"])


async def test_commits_that_do_not_match_move_the_position_on(
    floor: ConsumerFloor, numbered: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A consumer of a quiet group does not fall behind what retention keeps."""
    monkeypatch.setattr(tidelog.consumer, "SKIPS_STORED_EVERY_SECONDS", 0.0)
    async with consuming(floor.url, "mailer", groups=["quiet"]):
        await floor.post("a")
        await floor.until_position("mailer", 1)
        await floor.post("b")
        await floor.until_position("mailer", 2)
    assert await floor.effects() == []


@pytest.mark.parametrize(("start", "first"), [("beginning", 1), ("now", 4), (2, 3)])
async def test_a_new_name_starts_where_it_is_told(floor: ConsumerFloor, numbered: None, start: Any, first: int) -> None:
    """At the oldest commit, after the last one, or after a position."""
    for number in range(1, 4):
        await floor.post(f"a{number}")
        await floor.numbered(number)
    recorder = Recorder()
    async with consuming(floor.url, "mailer", recorder, start=start):
        await floor.until_registered("mailer")
        await floor.post("b")
        assert (await recorder.next())[0] == first


async def test_a_consumer_waits_for_the_first_server(floor: ConsumerFloor) -> None:
    """Started on a database where nothing was numbered yet, it begins when there is an epoch to belong to."""
    async with consuming(floor.url, "mailer"):
        await floor.post("a")
        with numbering(floor.url):
            await floor.until_position("mailer", 1)
    assert await floor.effects() == await floor.log()


async def test_a_notification_wakes_it(floor: ConsumerFloor, numbered: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not depend on the slow poll, which here would come in an hour."""
    monkeypatch.setattr(tidelog.consumer, "SLOW_POLL_SECONDS", 3600.0)
    async with consuming(floor.url, "mailer"):
        for number in range(1, 6):
            await floor.post(f"a{number}")
            await floor.until_position("mailer", number)


async def test_what_the_handler_raises_rolls_back_and_is_raised(floor: ConsumerFloor, numbered: None) -> None:
    """All effects of the transaction are gone, those of other commits in its batch, too; then all happens once."""
    for number in range(1, 6):
        await floor.post(f"a{number}")
        await floor.numbered(number)
    handler = FailsOnce(4)
    with pytest.raises(LookupError, match="the handler failed"):
        await run_until_raised(floor, handler, batch_max=3)
    assert await floor.effects() == await floor.log(through=3)
    assert await floor.position("mailer") == 3
    async with consuming(floor.url, "mailer", handler, batch_max=3):
        await floor.until_position("mailer", 5)
    assert await floor.effects() == await floor.log()


@pytest.mark.parametrize("error", [TimeoutError("of another server"), ConnectionError("of another server")])
async def test_trouble_elsewhere_is_not_taken_for_the_databases(
    floor: ConsumerFloor, numbered: None, error: OSError
) -> None:
    """A handler that can't reach some other server gets its error raised, not hidden in retries."""

    async def handler(_commit: Commit, _connection: asyncpg.Connection[Any]) -> None:
        raise error

    await floor.post("a")
    with pytest.raises(type(error), match="of another server"):
        await run_until_raised(floor, handler)


async def test_a_lost_conflict_is_tried_again(floor: ConsumerFloor, numbered: None) -> None:
    """A serialisation failure or a deadlock in the handler is nobody's mistake: its effects happen once."""

    class Conflicts(FailsOnce):
        async def fail(self, _: Commit, connection: asyncpg.Connection[Any]) -> None:
            await connection.execute("do $$ begin raise exception using errcode = 'serialization_failure'; end $$")

    for number in range(1, 4):
        await floor.post(f"a{number}")
        await floor.numbered(number)
    handler = Conflicts(2)
    async with consuming(floor.url, "mailer", handler):
        await floor.until_position("mailer", 3)
    assert handler.failed
    assert await floor.effects() == await floor.log()


async def test_killed_connections_are_opened_again(floor: ConsumerFloor, numbered: None) -> None:
    """Whichever of its backends is terminated, in a transaction or idle: it goes on, and effects happen once."""

    class Killed(FailsOnce):
        async def fail(self, _: Commit, connection: asyncpg.Connection[Any]) -> None:
            other = await asyncpg.connect(floor.url)
            await other.execute("select pg_terminate_backend($1, 5000)", connection.get_server_pid())
            await other.close()
            await connection.execute("select 1")

    handler = Killed(2)
    async with consuming(floor.url, "mailer", handler):
        await floor.post("a")
        await floor.until_position("mailer", 1)
        await floor.post("b")  # its transaction is killed
        await floor.until_position("mailer", 2)
        backends = await floor.connection.fetch(
            "select pid from pg_stat_activity where application_name = 'tidelog consumer mailer'"
        )
        assert len(backends) >= 2  # the handler's, and the log's
        for number, backend in enumerate(backends, start=3):
            await floor.connection.execute("select pg_terminate_backend($1, 5000)", backend["pid"])
            await floor.post(f"c{number}")
            await floor.until_position("mailer", number)
    assert handler.failed
    assert await floor.effects() == await floor.log()


async def test_a_table_that_was_altered_under_a_handler_does_not_end_it(floor: ConsumerFloor, numbered: None) -> None:
    """What its connection had prepared is outdated: the transaction is run again on a new one."""
    await floor.connection.execute("create table mine (n int); insert into mine values (1)")
    widths: list[int] = []

    async def handler(commit: Commit, connection: asyncpg.Connection[Any]) -> None:
        widths.append(len(await connection.fetchrow("select * from mine") or ()))
        await store_effects(commit, connection)

    async with consuming(floor.url, "mailer", handler):
        await floor.post("a")
        await floor.until_position("mailer", 1)
        await floor.connection.execute("alter table mine add more int")
        await floor.post("b")
        await floor.until_position("mailer", 2)
    assert widths == [1, 2]
    assert await floor.effects() == await floor.log()


async def test_a_transaction_over_its_time_is_rolled_back_and_tried_again(floor: ConsumerFloor, numbered: None) -> None:
    """A handler that hangs does not hold up its consumer for ever."""

    class Hangs(FailsOnce):
        async def fail(self, _commit: Commit, _connection: asyncpg.Connection[Any]) -> None:
            await asyncio.Event().wait()

    await floor.post("a")
    handler = Hangs(1)
    async with consuming(floor.url, "mailer", handler, transaction_timeout_seconds=0.5):
        await floor.until_position("mailer", 1)
    assert handler.failed
    assert await floor.effects() == await floor.log()


async def test_a_handler_that_ends_its_transaction_is_told(floor: ConsumerFloor, numbered: None) -> None:
    """COMMIT inside the handler would part effects and position; a new BEGIN after it does not hide it."""

    async def handler(_: Commit, connection: asyncpg.Connection[Any]) -> None:
        await connection.execute("commit")
        await connection.execute("begin")

    await floor.post("a")
    with pytest.raises(TransactionAbortedError, match="savepoints"):
        await run_until_raised(floor, handler)
    assert await floor.position("mailer") == 0


async def test_a_swallowed_database_error_does_not_lose_the_commit(floor: ConsumerFloor, numbered: None) -> None:
    """After a failed statement nothing of the transaction can be stored: it is raised, and the position stays."""

    async def handler(commit: Commit, connection: asyncpg.Connection[Any]) -> None:
        await store_effects(commit, connection)
        with suppress(asyncpg.DivisionByZeroError):
            await connection.execute("select 1 / 0")

    await floor.post("a")
    with pytest.raises(asyncpg.InFailedSQLTransactionError):
        await run_until_raised(floor, handler)
    assert (await floor.position("mailer"), await floor.effects()) == (0, [])


async def test_several_consumers_of_one_name_share_the_work(floor: ConsumerFloor, numbered: None) -> None:
    """However many there are, each change is handled once, in order, while they come and go."""
    async with AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(consuming(floor.url, "mailer"))
        for number in range(1, 31):
            await floor.post(f"a{number}")
        await floor.numbered(30)
        async with consuming(floor.url, "mailer", batch_max=5):
            await floor.until_position("mailer", 30)
        await floor.post("b")
        await floor.until_position("mailer", 31)
    assert await floor.effects() == await floor.log()


async def test_consumers_of_different_names_do_not_share(floor: ConsumerFloor, numbered: None) -> None:
    """Each has a position of its own."""
    await floor.post("a")
    async with consuming(floor.url, "mailer"), consuming(floor.url, "indexer"):
        await floor.until_position("mailer", 1)
        await floor.until_position("indexer", 1)
    assert sorted(await floor.effects()) == sorted(await floor.log() * 2)


async def test_a_commit_that_was_removed_unseen_is_an_error(floor: ConsumerFloor, numbered: None) -> None:
    """Retention that overtook a consumer is told with what to do, never passed over in silence."""
    await floor.post("a1")
    async with consuming(floor.url, "mailer"):
        await floor.until_position("mailer", 1)
    for number in range(2, 6):
        await floor.post(f"a{number}")
        await floor.numbered(number)
    await floor.forget_through(2)
    with pytest.raises(PositionTooOldError, match=r"set its position in streams\.consumer to 2") as raised:
        await run_until_raised(floor)
    assert raised.value.code == "position_too_old"
    assert await floor.position("mailer") == 1
    await floor.connection.execute("update streams.consumer set position = 2")
    async with consuming(floor.url, "mailer"):
        await floor.until_position("mailer", 5)


async def test_the_beginning_is_the_oldest_commit_that_is_kept(floor: ConsumerFloor, numbered: None) -> None:
    """A new consumer has missed nothing; a position before that is refused."""
    for number in range(1, 4):
        await floor.post(f"a{number}")
        await floor.numbered(number)
    await floor.forget_through(2)
    recorder = Recorder()
    async with consuming(floor.url, "mailer", recorder):
        assert (await recorder.next())[0] == 3
    with pytest.raises(PositionTooOldError, match="positions 2 to 3"):
        await consume(floor.url, "indexer", recorder, start=1)
    with pytest.raises(PositionForeignError, match="positions 2 to 3"):
        await consume(floor.url, "indexer", recorder, start=4)


async def test_a_commit_that_is_removed_while_it_is_read_is_an_error(floor: ConsumerFloor, numbered: None) -> None:
    """Even a handler that makes light of it does not get half a commit stored as a whole one."""
    await floor.post(*(f"a{number}" for number in range(3000)))  # more than one page
    await floor.numbered(1)
    await floor.post("b")
    await floor.numbered(2)

    async def handler(commit: Commit, connection: asyncpg.Connection[Any]) -> None:
        try:
            async for change in commit:
                if change.id == "a0":
                    await floor.forget_through(1)
        except Exception as error:
            assert "removed" in str(error)

    with pytest.raises(PositionTooOldError):
        await run_until_raised(floor, handler)
    assert await floor.position("mailer") == 0


async def test_a_position_goes_on_in_a_history_that_has_it(floor: ConsumerFloor, numbered: None) -> None:
    """After a failover the numbers before it are the same ones: the consumer goes on, in the new epoch."""
    await floor.post("a")
    async with consuming(floor.url, "mailer"):
        await floor.until_position("mailer", 1)
        epoch = await floor.begin_epoch(since=1)
        await floor.post("b")
        await floor.until_position("mailer", 2)
    assert await floor.connection.fetchval("select epoch from streams.consumer") == epoch
    assert await floor.effects() == await floor.log()


async def test_a_position_of_another_history_is_refused(floor: ConsumerFloor, numbered: None) -> None:
    """Behind a failover's point, of an unknown epoch, or ahead of the head: nothing is handed out."""
    await floor.post("a1")
    await floor.numbered(1)
    await floor.post("a2")
    async with consuming(floor.url, "mailer"):
        await floor.until_position("mailer", 2)
    await floor.begin_epoch(since=1)
    await floor.post("a3")
    await floor.numbered(3)
    with pytest.raises(PositionForeignError, match="stopped at 2 of epoch") as raised:
        await run_until_raised(floor)
    assert raised.value.code == "position_foreign"
    await floor.connection.execute("update streams.consumer set epoch = gen_random_uuid(), position = 0")
    with pytest.raises(PositionForeignError, match="stopped at 0 of epoch"):
        await run_until_raised(floor)
    await floor.connection.execute(
        "update streams.consumer set position = 4, "
        "epoch = (select epoch from streams.epoch order by began_at desc limit 1)"
    )
    with pytest.raises(PositionForeignError, match="stopped at 4 of epoch"):
        await run_until_raised(floor)
    assert len(await floor.effects()) == 2


async def test_a_commit_of_50000_changes_takes_the_memory_of_a_few(floor: ConsumerFloor, numbered: None) -> None:
    """The handler streams 50 MB on into a table, in one transaction."""
    await floor.connection.execute(
        "insert into streams.chat_message (group_id, id, data) "
        "select 'general', n::text, jsonb_build_object('text', repeat('x', 1000)) from generate_series(1, 50000) n"
    )
    await floor.numbered(1)

    async def handler(commit: Commit, connection: asyncpg.Connection[Any]) -> None:
        records = ((commit.position, change.seq, 0) async for change in commit)
        await connection.copy_records_to_table("effects", records=records, columns=["position", "seq", "pid"])

    tracemalloc.start()
    try:
        async with consuming(floor.url, "mailer", handler):
            await floor.until_position("mailer", 1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10_000_000
    assert await floor.effects() == await floor.log()
    assert len(await floor.effects()) == 50_000


async def test_what_can_never_work_is_told_at_once(floor: ConsumerFloor, numbered: None, databases: Databases) -> None:
    """A misspelt stream, a database without Tidelog's tables, and arguments that make no sense."""
    with pytest.raises(StreamUnknownError, match="chatMesage"):
        await consume(floor.url, "mailer", store_effects, streams=["chatMesage"])
    empty = await databases.create()
    with pytest.raises(StreamsNotMigratedError, match="migrate"):
        await consume(empty, "mailer", store_effects)
    await databases.drop(empty)
    for name, options in (("", {}), ("mailer", {"batch_max": 0}), ("mailer", {"start": "end"})):
        with pytest.raises(ValueError):
            await consume(floor.url, name, store_effects, **options)  # type: ignore[arg-type]


async def test_an_odd_item_keeps_no_consumer_from_going_on(floor: ConsumerFloor, numbered: None) -> None:
    """Numbers that Python's json doesn't read, and depths, of before the limits; it comes to what follows."""
    digits, deep = "7" * 131_072, "[" * 3000 + "]" * 3000
    recorder = Recorder()
    await lift_limits(floor.connection)
    await floor.connection.execute(
        "insert into streams.chat_message (group_id, id, data) values ('general', 'a', $1::text::jsonb)",
        f'{{"digits": {digits}, "deep": {deep}, "large": 1e400}}',
    )
    await floor.post("b")
    async with consuming(floor.url, "mailer", recorder):
        (_, (odd,)), (_, (usual,)) = await recorder.next(), await recorder.next()
    assert write(odd.data["digits"], repr) == digits and write(odd.data["deep"], repr) == deep
    assert (odd.data["large"], odd.data["id"], usual.id) == (10**400, "a", "b")
