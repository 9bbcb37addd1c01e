"""Many subscriptions of one connection that come back: one walk of the log, beside which live service goes on."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.feed_insides import left_of, tasks_of, turns_of
from tests.harness import Databases, eventually, until_numbered
from tests.integration.sequencer_fixtures import connected, sequencing
from tests.integration.test_rejoin import Feed, Person, write
from tidelog import backoff as backoff_module
from tidelog.fair import Claim
from tidelog.feed.catch_up import replay as replay_module
from tidelog.feed.catch_up.replay import Replay
from tidelog.feed.messages import Messages
from tidelog.feed.subscription import PositionSubscription
from tidelog.model.change import Topic
from tidelog.model.position import Position
from tidelog.store import archive as archive_module
from tidelog.store import reading as reading_module
from tidelog.store import stride as stride_module
from tidelog.store.archive import PAGES_AT_ONCE_MAX, ForgottenError
from tidelog.store.reading import PageRequest

GROUPS = 20
COMMITS = 600  # more than two pages
LARGE = Topic("chatMessage", "large")
NOBODYS = Topic("chatMessage", "nobody's")  # has one item, which nobody wants
# One commit each: of one change, of two groups, with an event, of one item twice, of a delete.
FILL = f"""
do $$
begin
    for i in 1..{COMMITS} loop
        insert into streams.chat_message (group_id, id, data)
            values ('g' || i % {GROUPS}, i % 7, jsonb_build_object('n', i))
            on conflict (group_id, id) do update set data = excluded.data;
        if i % 50 = 0 then
            insert into streams.chat_message (group_id, id, data)
                values ('g' || (i + 1) % {GROUPS}, 'both ' || i, '{{}}');
        elsif i % 50 = 10 then
            perform streams.send('chatMessage', 'g' || i % {GROUPS}, null, 'typing', '1');
        elsif i % 50 = 20 then
            update streams.chat_message set data = '{{"again": 1}}'
                where group_id = 'g' || i % {GROUPS} and id = (i % 7)::text;
        elsif i % 50 = 30 then
            delete from streams.chat_message where group_id = 'g' || i % {GROUPS};
        end if;
        commit;
    end loop;
end $$
"""

Subscribed = tuple[str, Topic, str | None, int]  # name, topic, item, since


def group(number: int) -> Topic:
    return Topic("chatMessage", f"g{number % GROUPS}")


class Page(Person):
    """A connection with subscriptions."""

    def __init__(self, feed: Feed) -> None:
        super().__init__(feed)
        self.feed = feed
        self.has_failed = False
        self.subscriptions: dict[str, PositionSubscription] = {}

    def fail(self) -> None:
        self.has_failed = True

    def subscribe(self, name: str, topic: Topic, item: str | None = None, since: int | None = None) -> None:
        position = None if since is None else Position(since, self.feed.broadcaster.progress.epoch)
        subscription = self.subscriptions[name] = PositionSubscription(name, self, topic, item, position)
        self.feed.broadcaster.subscribe(subscription)

    def unsubscribe(self, name: str) -> None:
        self.feed.broadcaster.unsubscribe(self.subscriptions.pop(name))

    def is_live(self, *names: str) -> bool:
        live = {frame["subscription"] for frame in self.frames if frame["type"] == "live"}
        return live >= set(names or self.subscriptions)

    async def until_live(self, *names: str) -> None:
        await eventually(lambda: self.is_live(*names))

    def told(self, name: str) -> list[Any]:
        """What this subscription was told: position and content, in order."""
        subscription = self.subscriptions[name]
        told = []
        for frame in self.frames:
            if name not in frame.get("subscriptions", ()):
                continue
            if frame["type"] == "event":
                told.append((frame["position"], frame["event"]))
                continue
            wanted = [
                change
                for change in frame["changes"]
                if (change["stream"], change["group"]) == subscription.topic
                and subscription.item_id in (None, change["id"])
            ]
            assert wanted
            told.append((frame["position"], wanted))
        return told


@dataclass
class Reads:
    """What is asked of the archive."""

    pages: list[int] = field(default_factory=list)  # the commit that each began with
    standings: int = 0
    at_once: int = 0
    at_once_most: int = 0

    def watch(self, feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
        archive = feed.broadcaster.archive

        def counting(read: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
            async def counted(request: Any, *args: Any) -> Any:
                self.pages.append(request[0])
                return await read(request, *args)

            return counted

        standing = archive.standing

        async def counted_standing(epoch: str, claim: Claim) -> Any:
            self.standings += 1
            return await standing(epoch, claim)

        monkeypatch.setattr(archive, "page", counting(archive.page))
        monkeypatch.setattr(archive, "ready", counting(archive.ready))
        monkeypatch.setattr(archive, "standing", counted_standing)


def hasten(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed is tried again at once."""
    monkeypatch.setattr(backoff_module, "MAX_SECONDS", 0.001)
    monkeypatch.setattr(backoff_module, "FIRST_SECONDS", 0.001)


@pytest.fixture(scope="module")
async def url(databases: Databases, template_database: str) -> AsyncIterator[str]:
    """A database with commits of every kind, and a sequencer at work. Tests may add to it."""
    url = await databases.create(template=template_database)
    with sequencing(url):
        async with connected(url) as sql:
            await sql.execute(FILL)
            await until_numbered(sql)
        yield url
    await databases.drop(url)


@pytest.fixture
async def feed(url: str) -> AsyncIterator[Feed]:
    async with Feed.on(url) as feed:
        yield feed


KINDS: dict[str, Callable[[int], Subscribed]] = {
    "groups": lambda i: (f"s{i}", group(i), None, 0),
    "one group": lambda i: (f"s{i}", group(0), None, 0),
    "items": lambda i: (f"s{i}", group(i), str(i % 7), 0),
    "each from its own position": lambda i: (f"s{i}", group(i), None, i),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_many_that_come_back_cost_one_walk(feed: Feed, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Ten times as many read as many pages, and ask once where they stand; each is told, once, that it is live."""
    pages = []
    for count in (GROUPS, 10 * GROUPS):
        reads = Reads()
        with monkeypatch.context() as patch:
            reads.watch(feed, patch)
            page = Page(feed)
            for n in range(count):
                page.subscribe(*KINDS[kind](n))
            await page.until_live()
        assert [frame["type"] for frame in page.frames].count("live") == count
        assert reads.standings == 1
        pages.append(len(reads.pages))
    assert pages[1] <= pages[0] + 1


async def test_each_is_told_exactly_what_it_missed(feed: Feed) -> None:
    """Groups, items and doubles of them, from positions of their own: what each would be told if it came alone."""
    chance = random.Random(1)  # noqa: S311 - no secret
    sinces = [0] * 5 + [chance.randrange(COMMITS) for _ in range(5)] + [COMMITS]
    for groups, items, is_together in ((GROUPS, 0.0, False), (4, 0.4, False), (GROUPS, 0.4, True), (GROUPS, 0.0, True)):
        together = Page(feed)
        wanted: list[Subscribed] = []
        for n in range(30):
            topic = Topic("nosuch", "g") if n == 7 else group(chance.randrange(groups))
            item = str(chance.randrange(7)) if chance.random() < items else None
            wanted.append((f"s{n}", topic, item, 0 if is_together else chance.choice(sinces)))
            together.subscribe(*wanted[-1])
        await together.until_live()
        for one in wanted:
            alone = Page(feed)
            alone.subscribe(*one)
            await alone.until_live()
            assert together.told(one[0]) == alone.told(one[0]), one
        commits = [frame["position"] for frame in together.frames if frame["type"] == "commit"]
        assert commits == sorted(set(commits)), "a commit is one message"


async def test_one_that_has_ended_is_told_no_more(feed: Feed) -> None:
    """It unsubscribes in the middle of the walk; the others get all of it."""
    page = Page(feed)
    seen = 0

    def end_one(messages: Messages) -> None:
        nonlocal seen
        page.write(messages)
        if not seen:
            assert not page.is_live()
            page.unsubscribe("s3")
            seen = len(page.frames)

    page.deliver = end_one  # type: ignore[method-assign]
    for n in range(GROUPS):
        page.subscribe(f"s{n}", group(n), None, 0)
    await page.until_live()
    assert not any("s3" in frame.get("subscriptions", ()) for frame in page.frames[seen:])
    alone = Page(feed)
    alone.subscribe("s4", group(4), None, 0)
    await alone.until_live()
    assert page.told("s4") == alone.told("s4")


async def test_one_that_ends_while_its_check_fails_ends_nobody_else(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It came behind the first and was the only one left to be checked: the first goes on."""
    page = Page(feed)
    standing_of = feed.broadcaster.archive.standing
    asked = 0

    async def standing(epoch: str, claim: Claim) -> Any:
        nonlocal asked
        asked += 1
        if asked == 1:
            page.subscribe("second", group(1), None, 0)
        elif asked == 2:
            page.unsubscribe("second")
            raise TimeoutError
        return await standing_of(epoch, claim)

    hasten(monkeypatch)
    monkeypatch.setattr(feed.broadcaster.archive, "standing", standing)
    page.subscribe("first", group(0), None, 0)
    await eventually(lambda: page.has_failed or page.is_live("first"))
    assert not page.has_failed
    assert page.told("first")


async def test_one_of_many_that_can_not_go_on_is_reset(feed: Feed) -> None:
    """It is of another history, or ahead: it alone begins again, with a snapshot; the others go on."""
    page = Page(feed)
    epoch = feed.broadcaster.progress.epoch
    for n in range(5):
        page.subscribe(f"s{n}", group(n), None, 0)
    page.subscribe("ahead", group(6), None, COMMITS + 1000)
    feed.broadcaster.progress.epoch = "00000000-0000-0000-0000-000000000000"  # what `subscribe` takes it from
    page.subscribe("other", group(7), None, 0)
    feed.broadcaster.progress.epoch = epoch
    await page.until_live()
    resets = {frame["subscription"]: frame["reason"] for frame in page.frames if frame["type"] == "reset"}
    assert resets == {"ahead": "ahead", "other": "epoch"}
    assert {frame["subscription"] for frame in page.frames if frame["type"] == "snapshot"} == {"ahead", "other"}
    assert page.told("s0")


async def test_what_the_logs_first_batch_has_is_not_passed_over(database_url: str) -> None:
    """There is no batch before it that tells where to look."""
    async with connected(database_url) as sql:
        for n in range(100):
            await write(sql, f"i{n}", "g0" if n % 40 == 0 else "other")
        with sequencing(database_url):
            await until_numbered(sql)
            async with Feed.on(database_url) as feed:
                page = Page(feed)
                page.subscribe("s", group(0), None, 0)
                await page.until_live()
                assert [position for position, _ in page.told("s")] == [1, 41, 81]


async def test_what_is_not_kept_any_more_resets_those_that_need_it(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Retention takes commits while they are walked: those that have them already go on."""
    page_of = feed.broadcaster.archive.page
    ready = feed.broadcaster.archive.ready
    floor = 100

    def kept(read: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def read_kept(request: Any, *args: Any) -> Any:
            if request[0] <= floor:
                raise ForgottenError
            return await read(request, *args)

        return read_kept

    monkeypatch.setattr(feed.broadcaster.archive, "page", kept(page_of))
    monkeypatch.setattr(feed.broadcaster.archive, "ready", kept(ready))
    next_wanted = feed.broadcaster.archive.next_wanted

    async def next_kept(number: int, *args: Any) -> int:
        if number < floor:
            raise ForgottenError
        return await next_wanted(number, *args)

    monkeypatch.setattr(feed.broadcaster.archive, "next_wanted", next_kept)
    page = Page(feed)
    sinces = [0, 0, 50, floor - 1, floor, floor + 1, 500]
    for n, since in enumerate(sinces):
        page.subscribe(f"s{n}", group(n), None, since)
    await page.until_live()
    resets = {frame["subscription"]: frame["reason"] for frame in page.frames if frame["type"] == "reset"}
    assert resets == {f"s{n}": "too_old" for n, since in enumerate(sinces) if since < floor}
    assert page.told("s4")[0][0] > floor


async def test_a_commit_too_big_to_be_carried_resets_those_that_it_touches(
    feed: Feed, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other groups of the connection go on, and so do those of its group that have it."""
    async with connected(url) as sql:
        fill = "insert into streams.chat_message (group_id, id, data) select 'large', 'l' || i, "
        await sql.execute(fill + "jsonb_build_object('pad', repeat('x', 1000)) from generate_series(1, 50) i")
        await until_numbered(sql)
        large = await sql.fetchval("select max(number) from streams.commit")
        await write(sql, "after", "large")
        await until_numbered(sql)
    await eventually(lambda: feed.broadcaster.progress.position > large or feed.broadcaster.is_deserted)
    monkeypatch.setattr(reading_module, "COMMIT_SIZE_MAX_BYTES", 10_000)
    page = Page(feed)
    for n in range(5):
        page.subscribe(f"s{n}", group(n), None, 0)
    page.subscribe("touched", LARGE, None, 0)
    page.subscribe("touched later", LARGE, None, large - 1)
    page.subscribe("has it", LARGE, None, large)
    await page.until_live()
    resets = {frame["subscription"]: frame["reason"] for frame in page.frames if frame["type"] == "reset"}
    assert resets == {"touched": "too_large", "touched later": "too_large"}
    assert [position for position, _ in page.told("has it")] == [large + 1]


async def test_those_that_come_meanwhile_go_on_together(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with snapshots: as many as there are while one is at work are the next one's."""
    begun: list[int] = []
    attach = Replay.attach

    def counted(replay: Replay) -> None:
        begun.append(len(replay._subscriptions))
        attach(replay)

    monkeypatch.setattr(Replay, "attach", counted)
    page = Page(feed)
    async with turns_of(feed.broadcaster).slice(Claim("test")):
        for n in range(30):
            page.subscribe(f"s{n}", group(n), str(n))
        await eventually(lambda: sum(frame["type"] == "snapshot" for frame in page.frames) == 30)
    await page.until_live()
    assert len(begun) == 2 and sum(begun) == 30


async def test_nothing_is_at_work_when_the_feed_is_closed(feed: Feed) -> None:
    """Also none of those that wait for the ones before them."""
    page = Page(feed)
    async with turns_of(feed.broadcaster).slice(Claim("test")):
        for n in range(5):
            page.subscribe(f"s{n}", group(n))
        await eventually(lambda: sum(frame["type"] == "snapshot" for frame in page.frames) == 5)
        await feed.broadcaster.close()
        assert not tasks_of(feed.broadcaster)


async def test_many_go_live_while_the_feed_goes_on(feed: Feed, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In several turns, between which commits come: each is told of every commit once."""
    monkeypatch.setattr(replay_module, "LIVE_AT_ONCE_MAX", 2)
    async with connected(url) as sql:
        page = Page(feed)
        for n in range(GROUPS):
            page.subscribe(f"s{n}", group(n), None, feed.broadcaster.progress.position)
        for n in range(100):
            await write(sql, f"live {n}", f"g{n % GROUPS}")
        await page.until_live()
        last = await sql.fetchval("select count(*) from streams.change where id like 'live %'")
        await eventually(lambda: sum(len(frame.get("changes", ())) for frame in page.frames) == last)
    for n in range(GROUPS):
        ids = [change["id"] for _, changes in page.told(f"s{n}") for change in changes]
        assert ids == [f"live {i}" for i in range(n, 100, GROUPS)]


async def test_one_that_fell_behind_is_not_overtaken_by_many(feed: Feed, url: str) -> None:
    """They walk beside it, and are live only when it is at the present again."""
    page = Page(feed)
    page.subscribe("first", group(0))
    await page.until_live()
    async with connected(url) as sql:
        page.is_full = True
        feed.broadcaster.note_full(page)
        await write(sql, "missed", "g0")
        await eventually(lambda: feed.broadcaster.registry.behind(page))
        for n in range(1, GROUPS):
            page.subscribe(f"s{n}", group(n), None, 0)
        for n in range(5):
            await write(sql, f"late {n}", "g0")
            await write(sql, f"late {n}", "g1")
        await until_numbered(sql)
        page.is_full = False
        await page.until_live()
    frames = page.frames
    first = max(n for n, frame in enumerate(frames) if "first" in frame.get("subscriptions", ()))
    assert first < min(
        n for n, frame in enumerate(frames) if frame["type"] == "live" and frame["subscription"] != "first"
    )
    late = [change["id"] for _, changes in page.told("s1") for change in changes if change["id"].startswith("late")]
    assert late == [f"late {n}" for n in range(5)]


@pytest.mark.parametrize("wanted", ["nobody's", "items", "groups"])
async def test_a_walk_goes_on_from_where_it_failed(
    feed: Feed, url: str, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    """Pages time out: none before them is read again, also where all was nobody's, and passed over, until the last."""
    read: list[int] = []
    hasten(monkeypatch)
    page_of = feed.broadcaster.archive.page

    async def failing_once(request: PageRequest, *rest: Any) -> Any:
        read.append(request.number)
        if read.count(request.number) == 1 and len(set(read)) <= 3:
            raise TimeoutError
        return await page_of(request, *rest)

    page, alone = Page(feed), [Page(feed) for _ in range(3)]
    async with connected(url) as sql:
        await write(sql, f"after {wanted}", NOBODYS.group_id)  # to be passed over up to here, and read from here on
        await until_numbered(sql)
    subscribed: list[Subscribed] = [
        (f"s{n}", NOBODYS if wanted == "nobody's" else group(n), None if wanted == "groups" else str(n), 0)
        for n in range(3)
    ]
    for other, one in zip(alone, subscribed, strict=True):
        other.subscribe(*one)
        await other.until_live()
    for name in ("COMMITS_AT_ONCE", "_FIRST"):
        monkeypatch.setattr(stride_module, name, 200)
    monkeypatch.setattr(feed.broadcaster.archive, "page", failing_once)
    for one in subscribed:
        page.subscribe(*one)
    await page.until_live()
    assert read == sorted(read) and len(read) > (1 if wanted == "nobody's" else 2)
    assert [page.told(f"s{n}") for n in range(3)] == [other.told(f"s{n}") for n, other in enumerate(alone)]


async def test_a_walk_that_is_too_slow_goes_in_smaller_steps(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a statement for as many commits as usual never ends in time, one for fewer does."""
    spans: list[int] = []
    hasten(monkeypatch)
    page_of = feed.broadcaster.archive.page

    async def slow(request: PageRequest, *rest: Any) -> Any:
        spans.append(request.last - request.number)
        if spans[-1] > 100:
            raise TimeoutError
        return await page_of(request, *rest)

    monkeypatch.setattr(feed.broadcaster.archive, "page", slow)
    page = Page(feed)
    for n in range(2):
        page.subscribe(f"s{n}", group(n), "1", 0)
    await page.until_live()
    assert max(spans) > 100 and page.told("s0")


async def test_snapshots_are_served_beside_pages_that_hang(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many come back: so many pages are read at once, and who comes anew has a connection."""
    hung = asyncio.Event()
    reads = Reads()

    def hanging(read: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def read_and_hang(*args: Any, **options: Any) -> Any:
            reads.at_once += 1
            reads.at_once_most = max(reads.at_once, reads.at_once_most)
            try:
                await hung.wait()
                return await read(*args, **options)
            finally:
                reads.at_once -= 1

        return read_and_hang

    monkeypatch.setattr(archive_module, "read_page", hanging(archive_module.read_page))
    monkeypatch.setattr(archive_module, "fetch_ready", hanging(archive_module.fetch_ready))
    back = [Page(feed) for _ in range(8)]
    for page in back:
        for n in range(3):
            page.subscribe(f"s{n}", group(n), None, 0)
    await eventually(lambda: reads.at_once)
    fresh = Page(feed)
    for n in range(5):
        fresh.subscribe(f"s{n}", group(n))
    await fresh.until_live()
    hung.set()
    for page in back:
        await page.until_live()
    assert reads.at_once_most == PAGES_AT_ONCE_MAX


async def test_a_short_way_is_not_kept_waiting_by_long_ones(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages are read in turns: who misses one page has it after one of each of the others."""
    monkeypatch.setattr(archive_module, "PAGE_ROWS_MAX", 4)
    far = [Page(feed) for _ in range(4)]
    for page in far:
        for n in range(GROUPS):
            page.subscribe(f"s{n}", group(n), "1", 0)
    await eventually(lambda: all(page.frames for page in far))
    near = Page(feed)
    near.subscribe("s", group(COMMITS), "5", COMMITS - 2)
    await near.until_live()
    assert not any(page.is_live("s0") for page in far)
    for page in far:
        await page.until_live()


@pytest.mark.parametrize("is_new", [True, False])
async def test_a_walk_that_fails_opens_the_gate(
    feed: Feed, url: str, monkeypatch: pytest.MonkeyPatch, is_new: bool
) -> None:
    """A bug of ours ends the connection, and nobody waits for what will not be."""

    async def fail(*_: object) -> None:
        raise ZeroDivisionError

    page = Page(feed)
    async with connected(url) as sql:
        if is_new:
            monkeypatch.setattr(Replay, "_read_log", fail)
            page.subscribe("s", group(0), None, 0)
        else:
            page.subscribe("s", group(0))
            await page.until_live()
            monkeypatch.setattr(Replay, "_read_log", fail)
            page.is_full = True
            feed.broadcaster.note_full(page)
            await write(sql, "failed", "g0")
            await eventually(lambda: feed.broadcaster.registry.behind(page))
            page.is_full = False
        await eventually(lambda: page.has_failed)
    assert feed.broadcaster.registry.behind(page) is None
    page.unsubscribe("s")
    feed.broadcaster.leave(page, ())
    assert feed.broadcaster.is_deserted
    await eventually(lambda: not left_of(feed.broadcaster))  # a task is forgotten in the turn after its end
