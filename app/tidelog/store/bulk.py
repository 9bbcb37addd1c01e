"""One commit that is large: only what is wanted of it is read, and what can't be read hurts its own topic only.

First which of the wanted topics it touches, then which rows are theirs, by keys alone; then these rows, in pages.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Collection, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Literal

from tidelog.model.change import Commit, Topic
from tidelog.store.failure import ROW_ERRORS, is_of_a_row
from tidelog.store.queries import load
from tidelog.store.reading import COMMIT_ROWS_MAX, COMMIT_SIZE_MAX_BYTES, Assembly

if TYPE_CHECKING:
    import asyncpg

    from tidelog.store.reading import Connection

    Table = Literal["change", "event"]

logger = logging.getLogger("tidelog.reader")

IS_KEPT = load("is_kept")
KEYS_OF_TOPICS = {table: load("keys_of_topics").replace("{table}", table) for table in ("change", "event")}
READ_ROWS = load("read_rows")
TOUCHED_BY_ROWS = {table: load("touched_by_rows").replace("{table}", table) for table in ("change", "event")}
TOUCHED_OF_TOPICS = {table: load("touched_of_topics").replace("{table}", table) for table in ("change", "event")}

TOPICS_AT_ONCE = 500  # some milliseconds for the database
ROWS_SCANNED_MAX = 10_000  # 20 ms; a row takes at most half as long as a lookup
ROWS_AT_ONCE = 1000
KEYS_FIRST = 16  # asked for of each topic
KEYS_GROW_BY = 8
PAGE_BYTES_MAX = 2 * 1024 * 1024

_Key = tuple[int, Topic]  # seq, and whose it is


class Bulk:
    """Reads large commits on one connection. Raises asyncpg's errors."""

    def __init__(self, connection: Connection, timeout_seconds: float) -> None:
        self._connection = connection
        self._timeout_seconds = timeout_seconds

    async def read(self, commit: Commit, wanted: Collection[Topic]) -> Commit | None:
        """`commit`, so far without groups, with those of `wanted`; None if it was removed from the log meanwhile.

        A topic counts as wanted if it is from now on until this returns; others may come or not.
        """
        touched = sorted(await self.touched(commit.xid, wanted))
        keys = await self._keys(commit.xid, touched)
        assembly = Assembly(commit)
        if keys is None:
            assembly.truncate(touched)
        else:
            await self._add_rows(assembly, keys)
            if commit.truncated:
                assembly.truncate(touched)  # also those whose rows come after what was too much
        # Asked after all was read: what is kept now was kept then.
        ((is_kept, forgotten, _),) = await self._fetch(IS_KEPT, commit.number)
        commit.forgotten = frozenset(forgotten)
        return commit if is_kept else None

    async def touched(self, xid: int, wanted: Collection[Topic]) -> set[Topic]:
        """Which of these topics the transaction wrote to."""
        touched: set[Topic] = set()
        for table in ("change", "event"):
            if len(wanted) <= TOPICS_AT_ONCE or not await self._scan(table, xid, wanted, touched):
                await self._probe(table, xid, wanted, touched)
        return touched

    async def _scan(self, table: Table, xid: int, wanted: Collection[Topic], touched: set[Topic]) -> bool:
        """Go through the rows of the transaction; False, and nothing is found, if these are too many."""
        rows_max = min(len(wanted), ROWS_SCANNED_MAX)
        try:
            rows = await self._fetch(TOUCHED_BY_ROWS[table], xid, rows_max)
        except ROW_ERRORS as error:
            if not is_of_a_row(error):
                raise
            return False  # a name can't be read, so nobody has it
        if rows and rows[0]["rows"] > rows_max:
            return False
        touched.update(topic for row in rows if (topic := Topic(row["stream"], row["group_id"])) in wanted)
        return True

    async def _probe(self, table: Table, xid: int, wanted: Collection[Topic], touched: set[Topic]) -> None:
        """Look each wanted topic up in the transaction."""
        topics = list(wanted)
        for begin in range(0, len(topics), TOPICS_AT_ONCE):
            some = topics[begin : begin + TOPICS_AT_ONCE]
            places = await self._fetch(TOUCHED_OF_TOPICS[table], xid, *_columns(some))
            touched.update(some[place - 1] for (place,) in places)

    async def _keys(self, xid: int, touched: Sequence[Topic]) -> list[_Key] | None:
        """The keys of these topics' rows, in order; None if they are more than are carried."""
        keys: list[_Key] = []
        rows_max = COMMIT_ROWS_MAX + len(touched)
        for table in ("change", "event"):
            # Of each a few; then of those that may have more, more: little is looked at in vain.
            topics, each_max = touched, KEYS_FIRST
            while topics:
                found: list[list[_Key]] = [[] for _ in topics]
                for place, seq in await self._fetch(KEYS_OF_TOPICS[table], xid, *_columns(topics), each_max):
                    found[place - 1].append((seq, topics[place - 1]))
                keys += [key for some in found if len(some) < each_max for key in some]
                topics = [some[0][1] for some in found if len(some) == each_max]
                if len(keys) + len(topics) * each_max > rows_max:
                    return None
                each_max = min(each_max * KEYS_GROW_BY, rows_max + 1)
        return sorted(keys)

    async def _add_rows(self, assembly: Assembly, keys: Sequence[_Key]) -> None:
        """Read the rows of these keys, which are in order."""
        commit, at_once, begin = assembly.commit, ROWS_AT_ONCE, 0
        while begin < len(keys) and not commit.truncated:
            page = dict(keys[begin : begin + at_once])
            try:
                rows = await self._fetch(READ_ROWS, commit.xid, list(page), PAGE_BYTES_MAX, COMMIT_SIZE_MAX_BYTES)
            except ROW_ERRORS as error:
                if not is_of_a_row(error):
                    raise
                if len(page) > 1:
                    at_once = max(1, len(page) // 8)  # where is it?
                    continue
                ((seq, lost),) = page.items()
                logger.error("row %d of %s in commit %d can't be read: %s", seq, lost, commit.number, error)
                assembly.lose(lost)
                keys, begin = [key for key in keys[begin:] if key[1] != lost], 0
                continue
            for kind, seq, id, op, version, data in rows:
                assembly.add(page[seq], kind, seq, id, op, version, data)
            if not rows:
                return  # the rows have been removed
            # What is missing before the last has been removed; what is behind it did not fit.
            begin = bisect_right(keys, rows[-1]["seq"], begin, key=itemgetter(0))
            at_once = min(2 * at_once, ROWS_AT_ONCE)

    async def _fetch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        rows: list[asyncpg.Record] = await self._connection.fetch(query, *arguments, timeout=self._timeout_seconds)
        return rows


def _columns(topics: Sequence[Topic]) -> tuple[list[str], list[str]]:
    return [topic.stream for topic in topics], [topic.group_id for topic in topics]
