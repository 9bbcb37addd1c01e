"""Durable consumers: what they are handed, and what stays of it."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

import tidelog.consumer
from tests.consumer_fixtures import ConsumerKit, consuming, numbering, open_consumer_kit, store_effects
from tests.harness import Databases, lift_limits
from tests.integration.sequencer_fixtures import connected
from tidelog.consumer import Change, Commit, consume
from tidelog.errors import (
    PositionForeignError,
    PositionTooOldError,
    StreamsNotMigratedError,
    StreamUnknownError,
    TransactionAbortedError,
)
from tidelog.json_text import write
from tidelog.store.consumers import BEGINNING, register
from tidelog.store.reading import Only
from tidelog.store.retention import remove_commits

WAIT_SECONDS = 90
NOTHING_YET = (BEGINNING, 0)  # 0: it had looked before there was a commit with a number


@pytest.fixture
async def kit(database_url: str) -> AsyncIterator[ConsumerKit]:
    async with open_consumer_kit(database_url) as kit:
        yield kit


@pytest.fixture
def numbered(kit: ConsumerKit) -> Iterator[None]:
    with numbering(kit.url):
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


async def run_until_raised(kit: ConsumerKit, handler: Any = store_effects, **options: Any) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        await consume(kit.url, "mailer", handler, **options)


async def test_every_change_is_handed_out_whole_and_in_order(kit: ConsumerKit, numbered: None) -> None:
    """A commit's changes come together, as they were written, with the item's data; then the next commit's."""
    recorder = Recorder()
    await kit.post("a", "b")
    await kit.numbered(1)
    await kit.connection.execute("""update streams.chat_message set data = '{"text": "bye"}' where id = 'b'""")
    await kit.numbered(2)
    await kit.connection.execute("delete from streams.chat_message where id = 'a'")
    async with consuming(kit.url, "mailer", recorder):
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


async def test_effects_are_stored_once_for_each_change(kit: ConsumerKit, numbered: None) -> None:
    """A consumer that is stopped and started again goes on where its effects end."""
    for number in range(1, 4):
        await kit.post(f"a{number}", f"b{number}")
        await kit.numbered(number)
    async with consuming(kit.url, "mailer"):
        await kit.until_position("mailer", 3)
    await kit.post("c")
    async with consuming(kit.url, "mailer", start="beginning"):
        await kit.until_position("mailer", 4)
    assert await kit.effects() == await kit.log()


async def test_only_the_named_streams_and_groups_are_handed_out(kit: ConsumerKit, numbered: None) -> None:
    """Of a commit with several groups only the wanted changes come; commits without any don't come, and are passed."""
    recorder = Recorder()
    await kit.post("elsewhere", group="random")
    await kit.numbered(1)
    async with kit.connection.transaction():
        await kit.post("other", group="random")
        await kit.post("wanted", group="general")
    await kit.post("elsewhere-again", group="random")
    async with consuming(kit.url, "mailer", recorder, streams=["chatMessage"], groups=["general", "vip"]):
        position, changes = await recorder.next()
        assert (position, [change.id for change in changes]) == (2, ["wanted"])
        await kit.numbered(3)
        await kit.post("last", group="vip")
        position, changes = await recorder.next()
        assert (position, [change.id for change in changes]) == (4, ["last"])


async def test_commits_that_do_not_match_move_the_position_on(
    kit: ConsumerKit, numbered: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A consumer of a quiet group does not fall behind what retention keeps."""
    monkeypatch.setattr(tidelog.consumer, "SKIPS_STORED_EVERY_SECONDS", 0.0)
    async with consuming(kit.url, "mailer", groups=["quiet"]):
        await kit.post("a")
        await kit.until_position("mailer", 1)
        await kit.post("b")
        await kit.until_position("mailer", 2)
    assert await kit.effects() == []


@pytest.mark.parametrize(("start", "first"), [("beginning", 1), ("now", 4), (2, 3)])
async def test_a_new_name_starts_where_it_is_told(kit: ConsumerKit, numbered: None, start: Any, first: int) -> None:
    """At the oldest commit, after the last one, or after a position."""
    for number in range(1, 4):
        await kit.post(f"a{number}")
        await kit.numbered(number)
    recorder = Recorder()
    async with consuming(kit.url, "mailer", recorder, start=start):
        await kit.until_registered("mailer")
        await kit.post("b")
        assert (await recorder.next())[0] == first


async def test_a_consumer_waits_for_the_first_server(kit: ConsumerKit) -> None:
    """Started on a database where nothing was numbered yet, it begins when there is an epoch to belong to."""
    async with consuming(kit.url, "mailer"):
        await kit.post("a")
        with numbering(kit.url):
            await kit.until_position("mailer", 1)
    assert await kit.effects() == await kit.log()


async def test_a_notification_wakes_it(kit: ConsumerKit, numbered: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not depend on the slow poll, which here would come in an hour."""
    monkeypatch.setattr(tidelog.consumer, "SLOW_POLL_SECONDS", 3600.0)
    async with consuming(kit.url, "mailer"):
        for number in range(1, 6):
            await kit.post(f"a{number}")
            await kit.until_position("mailer", number)


async def test_what_the_handler_raises_rolls_back_and_is_raised(kit: ConsumerKit, numbered: None) -> None:
    """All effects of the transaction are gone, those of other commits in its batch, too; then all happens once."""
    for number in range(1, 6):
        await kit.post(f"a{number}")
        await kit.numbered(number)
    handler = FailsOnce(4)
    with pytest.raises(LookupError, match="the handler failed"):
        await run_until_raised(kit, handler, batch_max=3)
    assert await kit.effects() == await kit.log(through=3)
    assert await kit.position("mailer") == 3
    async with consuming(kit.url, "mailer", handler, batch_max=3):
        await kit.until_position("mailer", 5)
    assert await kit.effects() == await kit.log()


@pytest.mark.parametrize("error", [TimeoutError("of another server"), ConnectionError("of another server")])
async def test_trouble_elsewhere_is_not_taken_for_the_databases(
    kit: ConsumerKit, numbered: None, error: OSError
) -> None:
    """A handler that can't reach some other server gets its error raised, not hidden in retries."""

    async def handler(_commit: Commit, _connection: asyncpg.Connection[Any]) -> None:
        raise error

    await kit.post("a")
    with pytest.raises(type(error), match="of another server"):
        await run_until_raised(kit, handler)


async def test_a_lost_conflict_is_tried_again(kit: ConsumerKit, numbered: None) -> None:
    """A serialisation failure or a deadlock in the handler is nobody's mistake: its effects happen once."""

    class Conflicts(FailsOnce):
        async def fail(self, _: Commit, connection: asyncpg.Connection[Any]) -> None:
            await connection.execute("do $$ begin raise exception using errcode = 'serialization_failure'; end $$")

    for number in range(1, 4):
        await kit.post(f"a{number}")
        await kit.numbered(number)
    handler = Conflicts(2)
    async with consuming(kit.url, "mailer", handler):
        await kit.until_position("mailer", 3)
    assert handler.failed
    assert await kit.effects() == await kit.log()


async def test_killed_connections_are_opened_again(kit: ConsumerKit, numbered: None) -> None:
    """Whichever of its backends is terminated, in a transaction or idle: it goes on, and effects happen once."""

    class Killed(FailsOnce):
        async def fail(self, _: Commit, connection: asyncpg.Connection[Any]) -> None:
            other = await asyncpg.connect(kit.url)
            await other.execute("select pg_terminate_backend($1, 5000)", connection.get_server_pid())
            await other.close()
            await connection.execute("select 1")

    handler = Killed(2)
    async with consuming(kit.url, "mailer", handler):
        await kit.post("a")
        await kit.until_position("mailer", 1)
        await kit.post("b")  # its transaction is killed
        await kit.until_position("mailer", 2)
        backends = await kit.connection.fetch(
            "select pid from pg_stat_activity "
            "where datname = current_database() and application_name = 'tidelog consumer mailer'"
        )
        assert len(backends) >= 2  # the handler's, and the log's
        for number, backend in enumerate(backends, start=3):
            await kit.connection.execute("select pg_terminate_backend($1, 5000)", backend["pid"])
            await kit.post(f"c{number}")
            await kit.until_position("mailer", number)
    assert handler.failed
    assert await kit.effects() == await kit.log()


async def test_a_table_that_was_altered_under_a_handler_does_not_end_it(kit: ConsumerKit, numbered: None) -> None:
    """What its connection had prepared is outdated: the transaction is run again on a new one."""
    await kit.connection.execute("create table mine (n int); insert into mine values (1)")
    widths: list[int] = []

    async def handler(commit: Commit, connection: asyncpg.Connection[Any]) -> None:
        widths.append(len(await connection.fetchrow("select * from mine") or ()))
        await store_effects(commit, connection)

    async with consuming(kit.url, "mailer", handler):
        await kit.post("a")
        await kit.until_position("mailer", 1)
        await kit.connection.execute("alter table mine add more int")
        await kit.post("b")
        await kit.until_position("mailer", 2)
    assert widths == [1, 2]
    assert await kit.effects() == await kit.log()


async def test_a_transaction_over_its_time_is_rolled_back_and_tried_again(kit: ConsumerKit, numbered: None) -> None:
    """A handler that hangs does not hold up its consumer for ever."""

    class Hangs(FailsOnce):
        async def fail(self, _commit: Commit, _connection: asyncpg.Connection[Any]) -> None:
            await asyncio.Event().wait()

    await kit.post("a")
    handler = Hangs(1)
    async with consuming(kit.url, "mailer", handler, transaction_timeout_seconds=0.5):
        await kit.until_position("mailer", 1)
    assert handler.failed
    assert await kit.effects() == await kit.log()


async def test_a_handler_that_ends_its_transaction_is_told(kit: ConsumerKit, numbered: None) -> None:
    """COMMIT inside the handler would part effects and position; a new BEGIN after it does not hide it."""

    async def handler(_: Commit, connection: asyncpg.Connection[Any]) -> None:
        await connection.execute("commit")
        await connection.execute("begin")

    await kit.post("a")
    with pytest.raises(TransactionAbortedError, match="savepoints"):
        await run_until_raised(kit, handler)
    assert await kit.position("mailer") in NOTHING_YET


async def test_a_swallowed_database_error_does_not_lose_the_commit(kit: ConsumerKit, numbered: None) -> None:
    """After a failed statement nothing of the transaction can be stored: it is raised, and the position stays."""

    async def handler(commit: Commit, connection: asyncpg.Connection[Any]) -> None:
        await store_effects(commit, connection)
        with suppress(asyncpg.DivisionByZeroError):
            await connection.execute("select 1 / 0")

    await kit.post("a")
    with pytest.raises(asyncpg.InFailedSQLTransactionError):
        await run_until_raised(kit, handler)
    assert await kit.position("mailer") in NOTHING_YET and await kit.effects() == []


async def test_several_consumers_of_one_name_share_the_work(kit: ConsumerKit, numbered: None) -> None:
    """However many there are, each change is handled once, in order, while they come and go."""
    async with AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(consuming(kit.url, "mailer"))
        for number in range(1, 31):
            await kit.post(f"a{number}")
        await kit.numbered(30)
        async with consuming(kit.url, "mailer", batch_max=5):
            await kit.until_position("mailer", 30)
        await kit.post("b")
        await kit.until_position("mailer", 31)
    assert await kit.effects() == await kit.log()


async def test_consumers_of_different_names_do_not_share(kit: ConsumerKit, numbered: None) -> None:
    """Each has a position of its own."""
    await kit.post("a")
    async with consuming(kit.url, "mailer"), consuming(kit.url, "indexer"):
        await kit.until_position("mailer", 1)
        await kit.until_position("indexer", 1)
    assert sorted(await kit.effects()) == sorted(await kit.log() * 2)


async def test_a_commit_that_was_removed_unseen_is_an_error(kit: ConsumerKit, numbered: None) -> None:
    """Retention that overtook a consumer is told with what to do, never passed over in silence."""
    await kit.post("a1")
    async with consuming(kit.url, "mailer"):
        await kit.until_position("mailer", 1)
    for number in range(2, 6):
        await kit.post(f"a{number}")
        await kit.numbered(number)
    await kit.forget_through(2)
    with pytest.raises(PositionTooOldError, match=r"set its position in streams\.consumer to 2") as raised:
        await run_until_raised(kit)
    assert raised.value.code == "position_too_old"
    assert await kit.position("mailer") == 1
    await kit.connection.execute("update streams.consumer set position = 2")
    async with consuming(kit.url, "mailer"):
        await kit.until_position("mailer", 5)


async def test_the_beginning_is_the_oldest_commit_that_is_kept(kit: ConsumerKit, numbered: None) -> None:
    """A new consumer has missed nothing; a position before that is refused."""
    for number in range(1, 4):
        await kit.post(f"a{number}")
        await kit.numbered(number)
    await kit.forget_through(2)
    recorder = Recorder()
    async with consuming(kit.url, "mailer", recorder):
        assert (await recorder.next())[0] == 3
    with pytest.raises(PositionTooOldError, match="positions 2 to 3"):
        await consume(kit.url, "indexer", recorder, start=1)
    with pytest.raises(PositionForeignError, match="positions 2 to 3"):
        await consume(kit.url, "indexer", recorder, start=4)


async def test_a_commit_that_is_removed_while_it_is_read_is_an_error(kit: ConsumerKit, numbered: None) -> None:
    """Even a handler that makes light of it does not get half a commit stored as a whole one."""
    await kit.post(*(f"a{number}" for number in range(3000)))  # more than one page
    await kit.numbered(1)
    await kit.post("b")
    await kit.numbered(2)

    async def handler(commit: Commit, connection: asyncpg.Connection[Any]) -> None:
        try:
            async for change in commit:
                if change.id == "a0":
                    await kit.forget_through(1)
        except Exception as error:
            assert "removed" in str(error)

    with pytest.raises(PositionTooOldError):
        await run_until_raised(kit, handler)
    assert await kit.position("mailer") == BEGINNING


async def test_a_new_consumer_begins_also_while_the_oldest_commits_are_being_removed(
    kit: ConsumerKit, numbered: None
) -> None:
    """By a statement that doesn't see it yet. From then on nothing that it has still to read is removed."""
    for number in range(1, 6):
        await kit.post(f"a{number}")
        await kit.numbered(number)
    async with connected(kit.url) as removing:
        async with removing.transaction():
            await remove_commits(removing, 0, older_than=timedelta(0), commits_max=3)
            assert await register(kit.connection, "mailer", "beginning", Only(None, None))
        assert (await remove_commits(removing, 3, older_than=timedelta(0), commits_max=1)).floor == 3
    recorder = Recorder()
    async with consuming(kit.url, "mailer", recorder):
        assert (await recorder.next())[0] == 4
        await kit.until_position("mailer", 5)


async def test_a_position_goes_on_in_a_history_that_has_it(kit: ConsumerKit, numbered: None) -> None:
    """After a failover the numbers before it are the same ones: the consumer goes on, in the new epoch."""
    await kit.post("a")
    async with consuming(kit.url, "mailer"):
        await kit.until_position("mailer", 1)
        epoch = await kit.begin_epoch(since=1)
        await kit.post("b")
        await kit.until_position("mailer", 2)
    assert await kit.connection.fetchval("select epoch from streams.consumer") == epoch
    assert await kit.effects() == await kit.log()


async def test_a_position_of_another_history_is_refused(kit: ConsumerKit, numbered: None) -> None:
    """Behind a failover's point, of an unknown epoch, or ahead of the head: nothing is handed out."""
    await kit.post("a1")
    await kit.numbered(1)
    await kit.post("a2")
    async with consuming(kit.url, "mailer"):
        await kit.until_position("mailer", 2)
    await kit.begin_epoch(since=1)
    await kit.post("a3")
    await kit.numbered(3)
    with pytest.raises(PositionForeignError, match="stopped at 2 of epoch") as raised:
        await run_until_raised(kit)
    assert raised.value.code == "position_foreign"
    await kit.connection.execute("update streams.consumer set epoch = gen_random_uuid(), position = 0")
    with pytest.raises(PositionForeignError, match="stopped at 0 of epoch"):
        await run_until_raised(kit)
    await kit.connection.execute(
        "update streams.consumer set position = 4, "
        "epoch = (select epoch from streams.epoch order by began_at desc limit 1)"
    )
    with pytest.raises(PositionForeignError, match="stopped at 4 of epoch"):
        await run_until_raised(kit)
    assert len(await kit.effects()) == 2


async def test_a_commit_of_50000_changes_takes_the_memory_of_a_few(kit: ConsumerKit, numbered: None) -> None:
    """The handler streams 50 MB on into a table, in one transaction."""
    await kit.connection.execute(
        "insert into streams.chat_message (group_id, id, data) "
        "select 'general', n::text, jsonb_build_object('text', repeat('x', 1000)) from generate_series(1, 50000) n"
    )
    await kit.numbered(1)

    async def handler(commit: Commit, connection: asyncpg.Connection[Any]) -> None:
        records = ((commit.position, change.seq, 0) async for change in commit)
        await connection.copy_records_to_table("effects", records=records, columns=["position", "seq", "pid"])

    tracemalloc.start()
    try:
        async with consuming(kit.url, "mailer", handler):
            await kit.until_position("mailer", 1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10_000_000
    assert await kit.effects() == await kit.log()
    assert len(await kit.effects()) == 50_000


async def test_what_can_never_work_is_told_at_once(kit: ConsumerKit, numbered: None, databases: Databases) -> None:
    """A misspelt stream, a database without Tidelog's tables, and arguments that make no sense."""
    with pytest.raises(StreamUnknownError, match="chatMesage"):
        await consume(kit.url, "mailer", store_effects, streams=["chatMesage"])
    empty = await databases.create()
    with pytest.raises(StreamsNotMigratedError, match="migrate"):
        await consume(empty, "mailer", store_effects)
    await databases.drop(empty)
    wrong: list[tuple[str, dict[str, Any]]] = [("", {}), ("mailer", {"batch_max": 0}), ("mailer", {"start": "end"})]
    for name, options in [*wrong, ("mailer", {"groups": "ada"}), ("mailer", {"streams": "chatMessage"})]:
        with pytest.raises(ValueError):
            await consume(kit.url, name, store_effects, **options)


async def test_an_odd_item_keeps_no_consumer_from_going_on(kit: ConsumerKit, numbered: None) -> None:
    """Numbers that Python's json doesn't read, and depths, of before the limits; it comes to what follows."""
    digits, deep = "7" * 131_072, "[" * 3000 + "]" * 3000
    recorder = Recorder()
    await lift_limits(kit.connection)
    await kit.connection.execute(
        "insert into streams.chat_message (group_id, id, data) values ('general', 'a', $1::text::jsonb)",
        f'{{"digits": {digits}, "deep": {deep}, "large": 1e400}}',
    )
    await kit.post("b")
    async with consuming(kit.url, "mailer", recorder):
        (_, (odd,)), (_, (usual,)) = await recorder.next(), await recorder.next()
    assert write(odd.data["digits"], repr) == digits and write(odd.data["deep"], repr) == deep
    assert (odd.data["large"], odd.data["id"], usual.id) == (10**400, "a", "b")
