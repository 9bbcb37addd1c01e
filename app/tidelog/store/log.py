"""The sequencer's side of the log: give numbers to what is new in it. (Reading it is in reading.py.)"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import asyncpg

from tidelog.store.epoch import known_epoch
from tidelog.store.failure import ROW_ERRORS, is_notify_queue_full, is_of_a_row
from tidelog.store.notify_queue import NotifyQueue
from tidelog.store.queries import load
from tidelog.store.window import numbering_window

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Connection = asyncpg.Connection[Any]

HEAD = load("head")
NUMBER_FEW = load("number_commits").replace("{written}", load("written_few"))
NUMBER_MANY = load("number_commits").replace("{written}", load("written_many"))
SEQUENCER_STATE = load("sequencer_state")
LIFT_TRANSACTION_TIMEOUT = load("lift_transaction_timeout")

# Every statement of the feed is a lookup of few rows by key; the log's statistics, taken when it was small or
# empty, must not talk the planner into reading all of it. One plan, made once.
FEED_SETTINGS = {
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    # Rows of a transaction in the order of the key come by the key: with statistics taken during a large one, which
    # count none of its rows, the planner would read them all by another index, and sort them.
    "enable_sort": "off",
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    # A statement goes on without its client (deadline.py); this would have it end.
    "client_connection_check_interval": "0",
    "synchronous_commit": "on",
    # A commit's time in JSON (number_commits.sql) has all its digits.
    "extra_float_digits": "1",
}

# Of those who read what is past: a page of commits is joined with its rows (read_ready.sql). All other lookups of
# theirs are by lateral subqueries with a limit, which no join can take the place of.
ARCHIVE_SETTINGS = {**FEED_SETTINGS, "enable_hashjoin": "on"}

BEFORE_EVERYTHING = "1:1:"  # a pg_snapshot in which no transaction is visible
# Past it, number_commits.sql is told to jump from transaction to transaction rather than to read every row.
FEW_ROWS = 10_000
_NO_LIMIT = 2**62
_BEFORE_ALL_TIME = datetime(2000, 1, 1, tzinfo=UTC)

# 30 seconds: as in number_commits.sql.
WENT_BACK = (
    "the clock was ahead: commit %d is dated %s, the next ones from %s on again; their order is that of their numbers. "
    "To date anew what was dated ahead: update streams.commit set at = clock_timestamp() "
    "where at > clock_timestamp() + interval '30 seconds'"
)

logger = logging.getLogger("tidelog.sequencer")


@dataclass(slots=True)
class Numbering:
    """Where numbering stands: all that a sequencer knows, and all of it can be read from the tables."""

    number: int
    at: datetime
    snapshot: str
    # What `advance` numbered last, as the rows of a page (reading.py), if it was asked to tell; empty if it was much.
    rows: Sequence[Any] = field(default=(), init=False)
    # While it is crowded, heads are not told by NOTIFY: in a full one the numbers could not be committed.
    queue: NotifyQueue = field(default_factory=NotifyQueue, init=False)
    # The statements by their texts with places, for transactions that lie in the window.
    _statements: dict[str, str] = field(default_factory=dict, init=False)

    @classmethod
    async def load(cls, connection: Connection) -> Numbering:
        row = await connection.fetchrow(SEQUENCER_STATE)
        assert row is not None  # noqa: S101 - a left join from one row
        return cls(row["number"] or 0, row["at"] or _BEFORE_ALL_TIME, row["snapshot"] or BEFORE_EVERYTHING)

    async def advance(self, connection: Connection, *, tell_rows_max: int = 0) -> int:
        """Number every commit that became visible; returns how many. Up to so many rows of theirs are in `rows` then.

        Raises asyncpg.UniqueViolationError if somebody else numbered meanwhile: this state is then stale.
        """
        try:
            row = await self._number(connection, NUMBER_FEW, FEW_ROWS, tell_rows_max)
        except ROW_ERRORS as error:
            if not tell_rows_max or not is_of_a_row(error):
                raise
            # What a row holds could not be told. It is for the readers to find which; here all get their numbers.
            if isinstance(error, UnicodeDecodeError):  # they have them already, and the answer can't be read
                return self._take_over(await self.load(connection))
            row = await self._number(connection, NUMBER_FEW, FEW_ROWS, 0)
        if row["is_too_much"]:
            row = await self._number(connection, NUMBER_MANY, _NO_LIMIT, 0)
        numbered: int = row["numbered"]
        if numbered:
            if row["at"] < self.at:
                logger.warning(WENT_BACK, self.number, self.at, row["at"])
            self.number, self.at = row["number"], row["at"]
        self.snapshot = row["snapshot"]
        self.rows = json.loads(row["rows"]) if row["rows"] else ()
        return numbered

    async def _number(self, connection: Connection, statement: str, rows_max: int, tell_rows_max: int) -> Any:
        arguments = (self.snapshot, self.number, self.at, rows_max, tell_rows_max)
        while True:
            if statement not in self._statements:
                await self._plan(connection)
            tells_head = not self.queue.is_crowded
            try:
                row = await connection.fetchrow(self._statements[statement], *arguments, tells_head)
            except asyncpg.ProgramLimitExceededError as error:
                if not tells_head or not is_notify_queue_full(error):
                    raise
                self.queue.note_full()
                continue
            assert row is not None  # noqa: S101 - an aggregate answers one row
            if not row["is_outside"]:
                return row
            self._statements.clear()

    async def _plan(self, connection: Connection) -> None:
        """Have statements for where the log is now."""
        window = await numbering_window(connection, self.snapshot)
        self._statements = {statement: window.apply(statement) for statement in (NUMBER_FEW, NUMBER_MANY)}

    def _take_over(self, stored: Numbering) -> int:
        numbered = stored.number - self.number
        self.number, self.at, self.snapshot, self.rows = stored.number, stored.at, stored.snapshot, ()
        return numbered


class Head(NamedTuple):
    """The last number (0 before the first commit), the time, as epoch milliseconds, and the epoch.

    The time is the last commit's, or that of the epoch's beginning if it is later.
    """

    number: int
    at_ms: float
    epoch: str
    began_at_ms: float  # when the epoch began
    shared: int  # up to it, the commits are those of the epoch that was asked about; -1 if there is none such


async def read_head(
    connection: Connection | PoolConnectionProxy[Any], since_epoch: str | None, *, timeout_seconds: float
) -> Head:
    """Where the log ends, for one who was in `since_epoch`. Raises NotBegunError if no sequencer has worked here."""
    row = await connection.fetchrow(HEAD, since_epoch, timeout=timeout_seconds)
    assert row is not None  # noqa: S101 - an aggregate answers one row
    epoch = known_epoch(row["epoch"])
    return Head(row["number"], row["at_ms"], epoch, row["began_at_ms"], row["shared"])
