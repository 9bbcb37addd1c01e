"""The connections of the steps: lent, taken back, looked after. No more of them than there is room for.

SQLAlchemy's pool opens connections and sets them up, and each is taken out of it for as long as it is open: its way of
lending (two greenlets, a wait on a queue) cost as much as a step's three round trips.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Coroutine
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import greenlet_spawn

from tidelog.errors import NoConnectionError
from tidelog.store.connecting import told
from tidelog.store.failure import CONNECTION_ERRORS, is_away, is_crowded, is_outdated
from tidelog.store.lent import ANSWER_TIMEOUT_SECONDS, Lent
from tidelog.store.liveness import LOOK_SECONDS, Connect, is_answer_lost, is_writable

logger = logging.getLogger(__name__)

OPEN_TIMEOUT_SECONDS = 15  # a connection of the driver in 10, and SQLAlchemy's own questions
IDLE_KEPT = 1  # however long it is idle: the next step after a quiet night needn't wait for a connection
# How long the server that had no room for one more connection is not asked for one.
CROWDED_SECONDS = 5.0
CROWDED_TOLD_SECONDS = 60.0  # a server that was crowded again within this time is not told of again
# Connections are not renewed more often than this because a table was altered: a step may bring that about each time.
RENEW_SECONDS = 10.0


class Pool:
    """Lends connections. Who must wait is served in its turn, with a connection or with the right to open one."""

    def __init__(
        self, engine: AsyncEngine, connect: Connect, *, size_max: int, timeout_seconds: float, idle_seconds: float
    ) -> None:
        self._engine = engine.sync_engine
        self._connect = connect
        self._size = size_max
        self._size_max = size_max  # 0 when it is closed
        self._timeout_seconds = timeout_seconds
        self._idle_seconds = idle_seconds
        self._open = 0  # connections, with those that are about to be opened, looked at or closed
        self._limit = size_max  # of `_open`; lower while the server has no room for so many
        self._crowded_until = -math.inf
        self._idle: list[Lent] = []  # given back last is last, and lent first: the others may be closed
        self._lent: set[Lent] = set()
        self._waiting: deque[asyncio.Future[Lent | None]] = deque()  # None is the right to open a connection
        self._suspicions = 0  # grows when a connection was found bad: others of its time may be, too
        self._outdated_at = -math.inf  # what was opened before remembers tables and types that were changed
        self._questioned: set[Lent] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._is_starved = False
        event.listen(self._engine, "handle_error", self._note_session_error)

    @property
    def lent_count(self) -> int:
        return len(self._lent)

    @property
    def open_count(self) -> int:
        return self._open

    @property
    def limit(self) -> int:
        """How many connections there may be: less than its size while the server has no room for so many."""
        return self._limit

    @property
    def timeout_seconds(self) -> float:
        """How long somebody waits for a connection."""
        return self._timeout_seconds

    @property
    def trouble(self) -> str | None:
        """That steps are refused because others keep all connections; None if they aren't."""
        if not self._is_starved or len(self._lent) < self._limit:
            return None
        return f"full: all {self._open} connections are in use, and no step gave one back for {self._timeout_seconds} s"

    async def check_out(self) -> Lent:
        """A connection that isn't known to be bad. Raises NoConnectionError."""
        lent = self._pop_idle() or await self._open_or_wait()
        self._lent.add(lent)
        if self._timer is None:
            self._look_later()
        return lent

    async def check_out_at_once(self) -> Lent | None:
        """A connection, or None if all of them are in use. Raises NoConnectionError if none can be opened."""
        if not self._idle and (self._waiting or self._open >= self._limit):
            return None
        return await self.check_out()

    async def check_in(self, lent: Lent) -> None:
        """Take it back: as it was opened, or not at all."""
        try:
            if not lent.driver.is_closed() and lent.driver.is_in_transaction():
                logger.warning("a step left a transaction open (BEGIN in its SQL?): it is rolled back")
                lent.is_spent = True
            if lent.was_used_by_session:
                await self._clean(lent)
        except BaseException:
            lent.terminate()
            raise
        finally:
            self._lent.discard(lent)
            self._take_back(lent)

    def note_error(self, lent: Lent, error: BaseException) -> bool:
        """Whether it was the connection's fault. Then it isn't lent again, and the others are looked at."""
        if not isinstance(error, Exception) or not (lent.is_closed or is_away(error)):
            return False
        now = time.monotonic()
        if is_outdated(error) and now > self._outdated_at + RENEW_SECONDS:
            self._outdated_at = now
        self.distrust(lent)
        return True

    def distrust(self, lent: Lent) -> None:
        """It is no good: it isn't lent again, and the others of its time only after a look at them."""
        lent.is_spent = True
        self._suspect_others()

    def make_room(self) -> None:
        """Do with one connection less for a while: the server has no room for one that the feed needs."""
        self._lower_limit(len(self._idle) + len(self._lent) - 1)
        if self._open > self._limit and self._idle:
            self._spawn(self._close(self._idle.pop(0)))

    def open(self) -> None:
        """Lend connections, also after it was closed."""
        self._size_max = self._limit = self._size

    async def close(self) -> None:
        """Close what is idle. What is still lent is closed when it is given back."""
        self._size_max = self._limit = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for lent in self._idle:
            self._spawn(self._close(lent))
        self._idle.clear()
        while self._tasks:
            await asyncio.wait(self._tasks)

    # Getting one.

    def _pop_idle(self) -> Lent | None:
        while self._idle:
            lent = self._idle.pop()
            if not lent.driver.is_closed():
                return lent
            self._let_go(lent)
        return None

    async def _open_or_wait(self) -> Lent:
        may_open = not self._waiting and self._open < self._limit
        self._open += may_open
        while True:
            if may_open:
                try:
                    return await self._open_one()
                except Exception as error:  # OSError, asyncpg's or SQLAlchemy's, by what was in the way
                    others = self._open - 1
                    if is_crowded(error):
                        self._lower_limit(others)
                    self._free_place()
                    if not (others and is_crowded(error)):
                        raise NoConnectionError(f"no connection to the database: {told(error)}") from error
                except BaseException:
                    self._free_place()
                    raise
            given = await self._wait()
            if given is not None:
                return given
            may_open = True

    async def _open_one(self) -> Lent:
        async with asyncio.timeout(OPEN_TIMEOUT_SECONDS):
            proxied = await greenlet_spawn(self._engine.raw_connection)
        lent = Lent(self._engine, proxied, self._suspicions)
        if lent.driver.is_closed():
            lent.terminate()
            raise ConnectionResetError("it was closed as soon as it was opened")
        return lent

    async def _wait(self) -> Lent | None:
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        try:
            async with asyncio.timeout(self._timeout_seconds):
                given: Lent | None = await waiting
        except BaseException as error:
            if waiting.done() and not waiting.cancelled():  # in the same moment
                self._pass_on(waiting.result())
            elif waiting in self._waiting:
                self._waiting.remove(waiting)
            if not isinstance(error, TimeoutError):
                raise
            self._is_starved = True
            raise NoConnectionError(
                f"no connection was given back for {self._timeout_seconds} s (TIDELOG_POOL_TIMEOUT_SECONDS)"
            ) from None
        self._is_starved = False
        return given

    def _pass_on(self, given: Lent | None) -> None:
        if given is None:
            self._free_place()
        else:
            self._take_back(given)

    # Taking it back.

    async def _clean(self, lent: Lent) -> None:
        if lent.is_closed or lent.is_spent:
            lent.terminate()
            return
        try:
            await lent.clean()
        except Exception as error:
            logger.warning("a step's connection was closed, its session could not be cleaned: %r", error)
            lent.terminate()

    def _take_back(self, lent: Lent) -> None:
        if lent.driver.is_closed():
            self._let_go(lent)
        elif lent.is_spent or self._open > self._limit:
            self._spawn(self._close(lent))
        elif lent.suspicions != self._suspicions:
            self._spawn(self._check(lent))
        elif waiting := self._next_waiting():
            waiting.set_result(lent)
        else:
            lent.idle_since = time.monotonic()
            self._is_starved = False
            self._idle.append(lent)

    def _next_waiting(self) -> asyncio.Future[Lent | None] | None:
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                return waiting
        return None

    def _let_go(self, lent: Lent) -> None:
        lent.terminate()
        self._free_place()

    def _free_place(self) -> None:
        """One connection is no more, or was not to be had: its place is for who waits first."""
        if self._open <= self._limit and (waiting := self._next_waiting()):
            waiting.set_result(None)
        else:
            self._open -= 1

    async def _close(self, lent: Lent) -> None:
        try:
            await lent.close()
        except Exception as error:
            logger.info("a connection could not be closed as it should: %r", error)
        finally:
            self._let_go(lent)

    # Looking after them.

    def _note_session_error(self, context: ExceptionContext) -> None:
        """SQLAlchemy's: a statement of an author's session failed."""
        context.invalidate_pool_on_disconnect = False  # others are looked at by us
        if context.connection is None or context.connection.invalidated:
            return
        lent: Lent | None = context.connection.connection.info.get("lent")
        if lent is not None and context.original_exception is not None:
            self.note_error(lent, context.original_exception)

    def _suspect_others(self) -> None:
        """Those that are idle are looked at now, the others when they are given back."""
        self._suspicions += 1
        idle, self._idle = self._idle, []
        for lent in idle:
            self._spawn(self._check(lent))

    async def _check(self, lent: Lent) -> None:
        """Lend it again if it answers, leads to a server that takes writes, and remembers nothing outdated."""
        suspicions = self._suspicions
        lent.is_spent = True
        try:
            if lent.opened_at > self._outdated_at and await is_writable(lent.driver):
                lent.suspicions, lent.is_spent = suspicions, False
        except CONNECTION_ERRORS as error:
            logger.info("a connection is no good any more: %r", error)
        finally:
            self._take_back(lent)

    def _lower_limit(self, limit: int) -> None:
        now = time.monotonic()
        if now > self._crowded_until + CROWDED_TOLD_SECONDS:
            logger.warning(
                "the database has no room for more connections (TIDELOG_POOL_SIZE_MAX is %d): steps wait for those "
                "that are open",
                self._size_max,
            )
        self._crowded_until = now + CROWDED_SECONDS
        self._limit = max(1, min(limit, self._limit))

    def _look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._timer = None
        now = time.monotonic()
        for lent in self._lent - self._questioned:
            if lent.due_at < now:
                self._questioned.add(lent)
                self._spawn(self._question(lent))
        while len(self._idle) > IDLE_KEPT and self._idle[0].idle_since < now - self._idle_seconds:
            self._spawn(self._close(self._idle.pop(0)))
        if self._limit < self._size_max and now > self._crowded_until:
            self._limit = self._size_max
            while self._open < self._limit and (waiting := self._next_waiting()):
                self._open += 1
                waiting.set_result(None)
        if self._lent or self._waiting or len(self._idle) > IDLE_KEPT or self._limit < self._size_max:
            self._look_later()

    async def _question(self, lent: Lent) -> None:
        """End the wait for an answer that is lost, or give it more time."""
        try:
            if await is_answer_lost(lent, self._connect):
                logger.warning("no answer from the database in %.0f s: the connection is lost", ANSWER_TIMEOUT_SECONDS)
                lent.driver.terminate()
                self._suspect_others()
        finally:
            self._questioned.discard(lent)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
