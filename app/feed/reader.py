"""This process's cursor on the numbered commits: follows the head and publishes, in order, each once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

from app.feed.backoff import Backoff
from app.store.epoch import server_of, until_begun
from app.store.failure import TROUBLE
from app.store.log import FEED_SETTINGS, Head, read_head
from app.store.reading import Page, PageRequest, read_after, read_page

if TYPE_CHECKING:
    import asyncpg

    from app.feed.broadcaster import Broadcaster
    from app.feed.shortcut import Shortcut
    from app.store.engine import Connector

logger = logging.getLogger("tidelog.reader")

HEAD_CHANNEL = "tidelog_head"  # the sequencer's NOTIFY; the payload is the new head
EPOCH_CHANNEL = "tidelog_epoch"  # its payload comes before the first head of the new epoch
STATEMENT_TIMEOUT_SECONDS = 30.0
PASSING_PAUSE_SECONDS = 0.05  # between looks at the head while nobody subscribes
BEGUN_TIMEOUT_SECONDS = 5.0  # a sequencer begins an epoch within half a second; one that can't must not keep us
SLOW_POLL_SECONDS = 1.0  # stands behind the NOTIFY, and finds a dead connection, whatever the shortcut brings


class Reader:
    """Publishes every commit after the head at which it started, through every loss of the connection."""

    def __init__(self, connect: Connector, broadcaster: Broadcaster, shortcut: Shortcut) -> None:
        self._connect = connect
        self._broadcaster = broadcaster
        self._shortcut = shortcut
        self._backoff = Backoff()
        self._head = 0  # as told on this connection
        self._head_moved = asyncio.Event()
        self._epoch: str | None = None  # as told on this connection, later than any answer
        self._is_joined = False  # whether this connection's history is known to hold what was published
        self.started = asyncio.Event()  # the broadcaster has its position: subscriptions may come
        self.trouble: str | None = "not started"

    async def run(self) -> None:
        """Work until cancelled."""
        self._shortcut.open(self._note_head)
        while True:
            try:
                await self._run_on_one_connection()
            except TROUBLE as error:
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
            while True:
                self._note_recovery()
                await self._follow(connection, asyncio.get_running_loop().time() + SLOW_POLL_SECONDS)
                head = await self._read_head(connection, None)
                self._broadcaster.begin_epoch(head.epoch)
        finally:
            self._shortcut.follow(None)
            with contextlib.suppress(*TROUBLE):
                await connection.close(timeout=1)

    async def _join(self, connection: asyncpg.Connection[Any]) -> None:
        """Find out where this connection's log ends, and whether it is the one that was published up to here."""
        broadcaster, epoch = self._broadcaster, self._broadcaster.epoch
        self._head, self._epoch, self._is_joined = 0, None, False
        await connection.add_listener(HEAD_CHANNEL, self._on_head)
        await connection.add_listener(EPOCH_CHANNEL, self._on_epoch)
        await broadcaster.archive.reconnect()
        self._shortcut.follow(await server_of(connection))
        await until_begun(connection, BEGUN_TIMEOUT_SECONDS)
        head = await self._read_head(connection, epoch)
        self._is_joined = True
        if not self.started.is_set():
            broadcaster.epoch = head.epoch
            broadcaster.start(head.number, head.at_ms)
            self.started.set()
        elif broadcaster.furthest <= head.shared:
            broadcaster.go_on(head)
        else:
            logger.error(
                "the database has lost commits from %d on, which were delivered up to %d (was a replica promoted "
                "that lacked them?): all subscribers begin again",
                head.shared + 1,
                broadcaster.furthest,
            )
            broadcaster.go_back(head)

    async def _read_head(self, connection: asyncpg.Connection[Any], epoch: str | None) -> Head:
        head = await read_head(connection, epoch, timeout_seconds=STATEMENT_TIMEOUT_SECONDS)
        self._head = max(self._head, head.number)
        return head._replace(epoch=self._epoch or head.epoch)

    def _note_trouble(self, error: Exception) -> None:
        self.trouble = f"{type(error).__name__}: {error}"
        self._broadcaster.tell_status(interrupted=True)

    def _note_recovery(self) -> None:
        self.trouble = None
        self._backoff.reset()
        self._broadcaster.tell_status(interrupted=False)

    async def _follow(self, connection: asyncpg.Connection[Any], until: float) -> None:
        """Publish up to the head each time it moves, until that time of the event loop's clock."""
        while asyncio.get_running_loop().time() < until:
            self._head_moved.clear()
            while self._broadcaster.position < self._head:
                if self._broadcaster.is_deserted:
                    await self._pass_over(connection)
                elif commits := self._shortcut.take():
                    self._broadcaster.publish(commits)
                    self._broadcaster.settle()
                else:
                    await self._publish_up_to_the_head(connection)
            try:
                async with asyncio.timeout_at(until):
                    await self._head_moved.wait()
            except TimeoutError:
                return

    def _on_head(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        self._note_head(int(str(payload)))

    def _note_head(self, head: int) -> None:
        self._head = max(self._head, head)
        self._head_moved.set()

    def _on_epoch(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        self._epoch = str(payload)
        if self._is_joined:  # else it may not be the one that goes on from the broadcaster's
            self._broadcaster.begin_epoch(self._epoch)

    async def _pass_over(self, connection: asyncpg.Connection[Any]) -> None:
        """Nobody is there to be told: move on without reading what happened, and not at every commit."""
        head = await self._read_head(connection, None)
        if self._broadcaster.is_deserted:  # whoever came meanwhile may have a snapshot from before this head
            self._broadcaster.start(head.number, head.at_ms)
            await self._broadcaster.wait_for_interest(PASSING_PAUSE_SECONDS)

    async def _publish_up_to_the_head(self, connection: asyncpg.Connection[Any]) -> None:
        broadcaster = self._broadcaster

        async def fetch(request: PageRequest) -> Page:
            # A commit that is larger than a page is known to the broadcaster only in part until it is whole.
            if request.seq >= 0:
                broadcaster.frontier = request.number
            broadcaster.settle()
            return await read_page(connection, request, timeout_seconds=STATEMENT_TIMEOUT_SECONDS)

        async for commits in read_after(fetch, broadcaster.position, self._head, broadcaster.is_wanted):
            broadcaster.publish(commits)
        broadcaster.settle()
