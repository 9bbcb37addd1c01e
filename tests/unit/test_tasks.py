"""Tasks that serve subscriptions: how long they try, what they tell, and that they end when they are told to."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest

from tests.harness import eventually
from tidelog import backoff
from tidelog.errors import StreamUnknownError, StreamUnreadableError, SubscriptionUnavailableError, TidelogError
from tidelog.feed import patience as patience_module
from tidelog.feed.patience import Patience
from tidelog.feed.progress import Progress
from tidelog.feed.subscription import Subscription
from tidelog.feed.tasks import Tasks
from tidelog.feed.trouble import TABLE_IS_GONE, Troubles
from tidelog.model.change import Topic
from tidelog.store.snapshot import ItemsUnreadableError

FULL = OSError(28, "No space left on device")
DROPPED = ItemsUnreadableError(asyncpg.UndefinedTableError('relation "streams.alpha" does not exist'))
LOCKED = ItemsUnreadableError(asyncpg.LockNotAvailableError("canceling statement due to lock timeout"), may_pass=True)


@dataclass
class Work:
    """What is tried: it fails with each of `errors`, and then (or without any) as `after` says."""

    errors: list[Exception]
    after: Exception | None = None
    tries: int = 0
    failed: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self) -> None:
        self.tries += 1
        error = self.errors.pop(0) if self.errors else self.after
        if error is not None:
            self.failed.set()
            raise error


class StepKit:
    """Tasks, and what they tell to whom."""

    def __init__(self, patience_seconds: float = 0.0, quiet_seconds: float = 3600) -> None:
        self.progress = Progress()
        self.is_interrupted = False
        self.troubles = Troubles(quiet_seconds)
        self.refused: list[tuple[Any, TidelogError]] = []
        self.unserved: dict[Any, Exception] = {}
        self.patience = Patience(patience_seconds, self.progress, lambda: self.is_interrupted, self.troubles)
        self.tasks = Tasks(
            self.troubles,
            lambda subscription, error: self.refused.append((subscription, error)),
            self.unserved.update,
        )


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses are turns of the event loop."""
    monkeypatch.setattr(backoff, "FIRST_SECONDS", 0)
    monkeypatch.setattr(patience_module, "UNREADABLE_SECONDS", 0)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


async def test_an_error_of_cleaning_up_does_not_keep_a_task_alive() -> None:
    """A driver whose server is gone raises its own in place of the cancellation."""
    begun = asyncio.Event()

    async def work() -> None:
        assert not begun.is_set()
        begun.set()
        try:
            await asyncio.sleep(3600)
        finally:
            raise ConnectionResetError

    task = asyncio.create_task(StepKit().patience.retrying(work))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 10)


@pytest.mark.parametrize(
    ("error", "end", "of_all", "of_streams"),
    [
        (FULL, SubscriptionUnavailableError, "OSError: [Errno 28] No space left on device", {}),
        (LOCKED, SubscriptionUnavailableError, None, {"alpha": f"LockNotAvailableError: {LOCKED}"}),
        (DROPPED, StreamUnreadableError, None, {"alpha": f"{TABLE_IS_GONE}: UndefinedTableError: {DROPPED}"}),
    ],
    ids=["everybody's", "a stream's, for a time", "a stream's, for good"],
)
async def test_what_fails_though_the_database_is_there_is_given_up_and_named(
    error: Exception, end: type[Exception], of_all: str | None, of_streams: dict[str, str]
) -> None:
    """By whose trouble it is: that of a stream is not everybody's."""
    kit = StepKit()
    with pytest.raises(end):
        await kit.patience.retrying(Work([], after=error), "alpha")
    assert (kit.troubles.of_all, kit.troubles.of_streams) == (of_all, of_streams)


@pytest.mark.parametrize("error", [FULL, LOCKED, DROPPED], ids=["everybody's", "for a time", "for good"])
async def test_while_the_feed_is_interrupted_it_is_waited_for(error: Exception) -> None:
    """The database is away: whatever it looks like from here, it is not given up, and the reader tells of it."""
    kit = StepKit()
    kit.is_interrupted = True
    work = Work([error] * 20)
    await kit.patience.retrying(work, "alpha")
    assert work.tries == 21
    assert (kit.troubles.of_all, kit.troubles.of_streams) == (None, {})


async def test_patience_begins_anew_after_an_interruption_and_with_any_progress() -> None:
    """What failed before it says nothing of what comes after."""
    kit = StepKit()
    tries = 0

    async def work() -> None:
        nonlocal tries
        tries += 1
        kit.progress.generation = max(0, tries - 10)
        if tries < 20:
            raise FULL

    await kit.patience.retrying(work, mark=lambda: min(tries, 10))
    with pytest.raises(SubscriptionUnavailableError):
        await kit.patience.retrying(Work([], after=FULL), mark=lambda: None)


async def test_a_single_failure_is_nobodys_business(caplog: pytest.LogCaptureFixture) -> None:
    """A statement may learn that the database is lost before the reader does."""
    kit = StepKit(patience_seconds=3600)
    await kit.patience.retrying(Work([FULL]), "alpha")
    assert (lines(caplog), kit.troubles.of_all) == ([], None)


async def test_what_a_connection_remembers_is_tried_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a pause, and without a word: the next connection knows better."""

    async def wait(_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(backoff.Backoff, "wait", wait)
    kit = StepKit()
    outdated = ItemsUnreadableError(asyncpg.InvalidCachedStatementError("cached plan must not change result type"))
    await kit.patience.retrying(Work([outdated]), "alpha")
    assert kit.troubles.of_streams == {}


async def test_a_cause_is_logged_once_and_once_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    """However many meet it, and however often; not before the last of them is served."""
    kit = StepKit(patience_seconds=3600)
    others = [Work([FULL] * 50) for _ in range(3)]
    work = Work([], after=FULL)
    trying = asyncio.create_task(kit.patience.retrying(work, "alpha"))
    await asyncio.gather(*(kit.patience.retrying(other, "beta") for other in others))
    assert kit.troubles.of_all == "OSError: [Errno 28] No space left on device"
    assert lines(caplog) == ["subscriptions can't be served: OSError: [Errno 28] No space left on device"]
    work.after = None
    await trying
    assert kit.troubles.of_all is None
    assert lines(caplog)[1:] == ["subscriptions can't be served: over: OSError: [Errno 28] No space left on device"]


async def test_a_cause_that_changes_is_named_as_it_is_now() -> None:
    """Neither the one before nor both."""
    kit = StepKit(patience_seconds=3600, quiet_seconds=0)
    work = Work([FULL, FULL, *[asyncpg.TooManyConnectionsError("too many connections")] * 2], after=LOCKED)
    trying = asyncio.create_task(kit.patience.retrying(work, "alpha"))
    await eventually(lambda: kit.troubles.of_streams and not kit.troubles.of_all)
    assert kit.troubles.of_streams == {"alpha": f"LockNotAvailableError: {LOCKED}"}
    trying.cancel()
    await asyncio.wait([trying])


async def test_a_cause_is_over_when_others_are_served(caplog: pytest.LogCaptureFixture) -> None:
    """Though those who met it were sent away; a stream's cause is its own subscribers' to end."""
    kit = StepKit()
    for error in (FULL, DROPPED):
        with pytest.raises(TidelogError):
            await kit.patience.retrying(Work([], after=error), "alpha")
    await kit.patience.retrying(Work([]), "beta")
    assert (kit.troubles.of_all, kit.troubles.of_streams.keys()) == (None, {"alpha"})
    await kit.patience.retrying(Work([]), "alpha")
    assert kit.troubles.of_streams == {}


async def test_a_cause_that_nobody_meets_any_more_is_forgotten() -> None:
    """There may be nobody who would succeed."""
    kit = StepKit(quiet_seconds=0)
    with pytest.raises(StreamUnreadableError):
        await kit.patience.retrying(Work([], after=DROPPED), "alpha")
    assert kit.troubles.of_streams
    await eventually(lambda: not kit.troubles.of_streams)


async def test_everybody_who_shares_what_failed_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """An error that was meant ends their subscriptions; a bug their connections, and is logged once, with its place."""
    kit = StepKit()
    people: list[Any] = [object(), object()]
    served = [Subscription("s", person, Topic("alpha", "g")) for person in people]

    def spawn(error: Exception) -> asyncio.Task[None]:
        return kit.tasks.spawn(kit.patience.retrying(Work([], after=error), "alpha"), lambda: served)

    error = StreamUnknownError("no stream is named 'alpha'")
    await spawn(error)
    assert kit.refused == [(subscription, error) for subscription in served]
    assert not kit.unserved
    assert lines(caplog) == []

    for _ in range(3):
        await spawn(TypeError("a bug"))
        await kit.patience.retrying(Work([]), "alpha")
    assert list(kit.unserved) == people
    assert lines(caplog) == ["subscriptions to 'alpha' can't be served: TypeError: a bug"]
    assert caplog.records[0].levelno == logging.ERROR
    assert caplog.records[0].exc_info is not None
    assert kit.troubles.of_streams == {"alpha": "TypeError: a bug"}
