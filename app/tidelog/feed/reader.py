"""This process's cursor on the numbered commits: follows the head and publishes, in order, each once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from tidelog.access.recheck import CHANNEL as RECHECK_CHANNEL
from tidelog.backoff import Backoff
from tidelog.feed.hint import EPOCH_CHANNEL, HEAD_CHANNEL, PAUSE_SECONDS, hinted_head
from tidelog.feed.watch import WATCH_SECONDS, Watch
from tidelog.store.epoch import server_of, until_begun
from tidelog.store.failure import CONNECTION_ERRORS
from tidelog.store.live import LiveLog, read_live
from tidelog.store.log import FEED_SETTINGS, Head, read_head
from tidelog.store.xid_range import LowestXid

if TYPE_CHECKING:
    import asyncpg

    from tidelog.feed.fast_path import FastPath
    from tidelog.feed.interfaces import CommitSink
    from tidelog.store.connecting import Connector

logger = logging.getLogger("tidelog.reader")

STATEMENT_TIMEOUT_SECONDS = 30.0
PASSING_PAUSE_SECONDS = 0.05  # between looks at the head while nobody subscribes
BEGUN_TIMEOUT_SECONDS = 5.0  # a sequencer begins an epoch within half a second; one that can't must not keep us
SLOW_POLL_SECONDS = 1.0  # stands behind the NOTIFY, and finds a dead connection, whatever the fast path brings
# Instead, while the queue of NOTIFYs is filling, and sequencers do without: a commit is late by half of that.
CROWDED_POLL_SECONDS = 0.05


class Reader:
    """Publishes every commit after the head at which it started, through every loss of the connection."""

    def __init__(
        self,
        connect: Connector,
        sink: CommitSink,
        fast_path: FastPath,
        reconnect: Callable[[], Awaitable[None]],
        on_recheck: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`reconnect` has those connect anew who read what is stored: what they have may be of another server.

        `on_recheck` is called with what a NOTIFY says of rules to be asked again; empty, for all, where some may have
        been missed.
        """
        self._on_recheck = on_recheck
        self._connect = connect
        self._sink, self._progress = sink, sink.progress
        self._fast_path = fast_path
        self._reconnect = reconnect
        self._backoff = Backoff()
        self._head = 0  # as read on this connection
        self._hint = 0  # where it is said to be since it was last looked for
        self._is_epoch_in_doubt = False
        self._is_listening = False
        self._lowest = LowestXid()  # of the commits to come
        self.watch = Watch()
        self._watch_at = 0.0  # by the event loop's clock
        self._stirred = asyncio.Event()  # there is something to look for
        self._behind_since: float | None = None  # by the event loop's clock
        self.started = asyncio.Event()  # the feed has its position: subscriptions may come
        self.trouble: str | None = "not started"

    @property
    def head(self) -> int:
        """The last commit that is known to be numbered."""
        return self._head

    @property
    def lag_seconds(self) -> float:
        """How long this process has been behind the head; 0.0 if it isn't."""
        since = self._behind_since
        return 0.0 if since is None else asyncio.get_running_loop().time() - since

    async def run(self) -> None:
        """Work until cancelled."""
        self._fast_path.open(self._note_hint)
        while True:
            try:
                await self._run_on_one_connection()
            except CONNECTION_ERRORS as error:
                self._note_trouble(error)
                logger.warning("connection lost, trying again: %s", self.trouble)
            except Exception as error:  # a bug of ours must not end the feed of everybody, nor go unseen
                self._note_trouble(error)
                logger.exception("the reader failed, trying again")
            await self._backoff.wait()

    async def _run_on_one_connection(self) -> None:
        connection = await self._connect(**FEED_SETTINGS, application_name="tidelog reader")
        try:
            await self._join(connection)
            loop = asyncio.get_running_loop()
            while True:
                pause = CROWDED_POLL_SECONDS if self.watch.queue.is_filling else SLOW_POLL_SECONDS
                await self._follow(connection, loop.time() + pause)
                if loop.time() >= self._watch_at:
                    await self._look_around(connection)
                await self._check_epoch(connection)
        finally:
            self._fast_path.follow(None)
            with contextlib.suppress(*CONNECTION_ERRORS):
                await connection.close(timeout=1)

    async def _join(self, connection: asyncpg.Connection[Any]) -> None:
        """Find out where this connection's log ends, and whether it is the one that was published up to here."""
        sink, progress, epoch = self._sink, self._progress, self._progress.epoch
        self._head, self._hint, self._is_epoch_in_doubt, self._is_listening = 0, 0, False, False
        self._lowest = LowestXid()
        await self._look_around(connection)
        await self._reconnect()
        self._fast_path.follow(await server_of(connection))
        await until_begun(connection, BEGUN_TIMEOUT_SECONDS)
        head = await self._read_head(connection, epoch)
        if not self.started.is_set():
            sink.begin_epoch(head.epoch)
            sink.start(head.number, head.at_ms)
            self.started.set()
        elif progress.furthest <= head.shared:
            sink.go_on(head)
        else:
            logger.error(
                "the database has lost commits from %d on, which were delivered up to %d (was a replica promoted "
                "that lacked them?): all subscribers begin again",
                head.shared + 1,
                progress.furthest,
            )
            sink.go_back(head)

    async def _look_around(self, connection: asyncpg.Connection[Any]) -> None:
        """Beside the feed, every second; the head is to be read after it, as it may begin to listen."""
        self._watch_at = asyncio.get_running_loop().time() + WATCH_SECONDS
        await self.watch.look(connection)
        # In a full queue LISTEN may take half a minute to read through it; and nobody notifies then.
        if not self._is_listening and not self.watch.queue.is_filling:
            await connection.add_listener(HEAD_CHANNEL, self._on_head)
            await connection.add_listener(EPOCH_CHANNEL, self._on_epoch)
            await connection.add_listener(RECHECK_CHANNEL, lambda *of: self._on_recheck(str(of[-1])))
            self._is_listening = True
            self._on_recheck("")

    async def _check_epoch(self, connection: asyncpg.Connection[Any]) -> None:
        was_told, self._is_epoch_in_doubt = self._is_epoch_in_doubt, False  # before it is read: it may change meanwhile
        before, head = self._progress.epoch, await self._read_head(connection, None)
        self._sink.begin_epoch(head.epoch)
        if was_told and head.epoch == before:
            await asyncio.sleep(PAUSE_SECONDS)

    async def _read_head(self, connection: asyncpg.Connection[Any], epoch: str | None) -> Head:
        head = await read_head(connection, epoch, timeout_seconds=STATEMENT_TIMEOUT_SECONDS)
        self._head = head.number
        return head

    def _note_trouble(self, error: Exception) -> None:
        self.trouble = f"{type(error).__name__}: {error}"
        self._sink.tell_status(interrupted=True)

    def _note_progress(self) -> None:
        """Something was published, or there is nothing to publish: not before that is all well again."""
        self.trouble = None
        self._backoff.reset()
        self._sink.tell_status(interrupted=False)

    async def _follow(self, connection: asyncpg.Connection[Any], until: float) -> None:
        """Publish up to the head each time it moves, until that time of the event loop's clock, or another epoch."""
        loop, progress = asyncio.get_running_loop(), self._progress
        while True:
            self._stirred.clear()
            if progress.position < max(self._head, self._hint):
                if self._behind_since is None:
                    self._behind_since = loop.time()
                await self._look(connection)
            else:
                self._behind_since = None
                self._note_progress()
                try:
                    async with asyncio.timeout_at(until):
                        await self._stirred.wait()
                except TimeoutError:
                    return
            if self._is_epoch_in_doubt or loop.time() > until:
                return

    async def _look(self, connection: asyncpg.Connection[Any]) -> None:
        """Publish what there is up to where the head is, or is said to be."""
        sink, progress = self._sink, self._progress
        if sink.is_deserted:
            await self._pass_over(connection)
        elif commits := self._fast_path.take():
            sink.publish(commits)
            sink.settle()
            self._note_progress()
        else:
            before, last, self._hint = progress.position, max(self._head, self._hint), 0
            await self._publish_up_to(connection, last)
            if progress.position == before:
                head = await self._read_head(connection, None)  # it was a forged hint, or the log is another
                if head.number <= before:
                    self._note_progress()
                await asyncio.sleep(PAUSE_SECONDS)

    def _on_head(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        self._note_hint(hinted_head(payload))

    def _note_hint(self, head: int) -> None:
        self._hint = max(self._hint, head)
        if head > self._progress.position:
            self._stirred.set()

    def _on_epoch(self, *_: object) -> None:
        self._is_epoch_in_doubt = True
        self._stirred.set()

    async def _pass_over(self, connection: asyncpg.Connection[Any]) -> None:
        """Nobody is there to be told: move on without reading what happened, and not at every commit."""
        self._hint = 0  # before the head is read: it may move meanwhile
        head = await self._read_head(connection, None)
        if self._sink.is_deserted:  # whoever came meanwhile may have a snapshot from before this head
            self._sink.start(head.number, head.at_ms)
            await self._sink.wait_for_interest(PASSING_PAUSE_SECONDS)

    async def _publish_up_to(self, connection: asyncpg.Connection[Any], last: int) -> None:
        sink = self._sink
        log = LiveLog(connection, STATEMENT_TIMEOUT_SECONDS, self._lowest)
        async for commits in read_live(log, self._progress.position, last, sink.wanted, sink.note_partial):
            if len(commits) == 1:  # a large one comes alone, and who comes meanwhile finds it in the log
                await sink.prepare(commits[0])
            sink.publish(commits)
            sink.settle()
            self._note_progress()
