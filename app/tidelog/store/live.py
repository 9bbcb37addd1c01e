"""The newest commits, for the reader: small ones in pages, whole; of large ones only what is wanted.

What nobody in this process subscribed to therefore costs little, however much it is, and holds up nobody.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from tidelog.model.change import Commit, Topic
from tidelog.store.bulk import Bulk
from tidelog.store.failure import ROW_ERRORS, is_of_a_row
from tidelog.store.queries import load
from tidelog.store.reading import PAGE_BYTES_MAX, PAGE_ROWS_MAX, whole_commits
from tidelog.store.xid_range import LowestXid

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[Any]

READ_LIVE = load("read_live")
READ_HEADS = """
    select number, xid, (extract(epoch from at) * 1000)::float8 as at_ms
    from streams.commit where number between $1 and $2 order by number limit 1
"""

# A commit up to both is read with others, wanted or not: that takes a millisecond or two. A larger one takes two
# statements if nothing of it is wanted, and four if something is.
SMALL_ROWS_MAX = 100
SMALL_BYTES_MAX = 256 * 1024  # as stored, compressed
_PAGES_SHRINK_BY = 8


class LiveLog:
    """Reads on one connection. Raises OSError, TimeoutError and asyncpg's errors."""

    def __init__(self, connection: Connection, timeout_seconds: float, lowest: LowestXid | None = None) -> None:
        self._connection = connection
        self._lowest = lowest or LowestXid()
        self._timeout_seconds = timeout_seconds
        self.bulk = Bulk(connection, timeout_seconds)

    async def page(self, first: int, last: int) -> Sequence[Any]:
        """Rows of the commits from `first` to `last`, as read_live.sql tells."""
        limits = (PAGE_ROWS_MAX, PAGE_BYTES_MAX, SMALL_ROWS_MAX, SMALL_BYTES_MAX)
        lowest = await self._lowest.of(self._connection, first, timeout_seconds=self._timeout_seconds)
        return await self._connection.fetch(READ_LIVE, first, last, *limits, lowest, timeout=self._timeout_seconds)

    async def head(self, first: int, last: int) -> Commit | None:
        """The first of these commits, without what happened in it."""
        row = await self._connection.fetchrow(READ_HEADS, first, last, timeout=self._timeout_seconds)
        return None if row is None else _head(row)


async def read_live(
    log: LiveLog,
    number: int,
    last: int,
    wanted: Collection[Topic],
    begin_bulk: Callable[[int], None],
) -> AsyncIterator[Sequence[Commit]]:
    """The commits after `number` up to `last`, or to the end of the log, in order, some at a time.

    Each has the groups of `wanted`, a view of what is wanted at the moment: for a small commit when it is yielded. A
    large one is announced by `begin_bulk(its number)`, and has what is wanted from then on until it is yielded.
    """
    commits_at_once = PAGE_ROWS_MAX
    while number < last:
        until = min(last, number + commits_at_once)
        try:
            rows = await log.page(number + 1, until)
        except ROW_ERRORS as error:
            if not is_of_a_row(error):
                raise
            # One of them has a row that can't be read: the others come in smaller pages, and it by itself.
            commits_at_once = (until - number) // _PAGES_SHRINK_BY
            if commits_at_once:
                continue
            commits_at_once = 1
            head = await log.head(number + 1, until)
            parts: list[Sequence[Any] | Commit] = [] if head is None else [head]
        else:
            parts = list(_parts(rows))
            commits_at_once = min(commits_at_once * _PAGES_SHRINK_BY, PAGE_ROWS_MAX)
        if not parts:
            return
        for part in parts:
            if isinstance(part, Commit):
                begin_bulk(part.number)
                number = part.number
                if (commit := await log.bulk.read(part, wanted)) is not None:
                    yield [commit]
            else:
                number = part[-1]["number"]
                commits = whole_commits(part, wanted.__contains__)
                if forgotten := part[0]["forgotten"]:
                    commits[0].forgotten = frozenset(forgotten)
                yield commits


def _parts(rows: Sequence[Any]) -> list[Sequence[Any] | Commit]:
    """The rows of small commits, those together that follow each other; and the head of each that is to be read apart.

    The last commit of a page may not be whole: it is left to the next page, unless it does not fit in one.
    """
    parts: list[Sequence[Any] | Commit] = []
    small: list[Any] = []
    for _, group in groupby(rows, itemgetter("number")):
        commit = list(group)
        first = commit[0]
        is_whole = len(commit) == first["size"]
        is_large = first["kind"] is not None and first["data"] is None
        if is_large or (not is_whole and first is rows[0]):
            if small:
                parts.append(small)
                small = []
            parts.append(_head(first))
        elif is_whole:
            small += commit
        else:
            break
    if small:
        parts.append(small)
    return parts


def _head(row: Any) -> Commit:
    return Commit(row["number"], row["xid"], row["at_ms"], {})
