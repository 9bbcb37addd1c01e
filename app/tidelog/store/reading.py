"""Reading the numbered log: pages of rows, put together to whole commits, in bounded memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tidelog.model.change import Change, Commit, Event, GroupCommit, Topic
from tidelog.store.queries import load
from tidelog.store.stride import FindNext, Stride
from tidelog.store.xid_range import XidRange, read_xid_range

if TYPE_CHECKING:
    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

    Connection = asyncpg.Connection[Any] | PoolConnectionProxy[Any]

HAS_SOME = load("has_some")
READ_COMMITS = (
    load("read_commits")
    .replace("{change_has_some}", HAS_SOME.replace("{table}", "change"))
    .replace("{event_has_some}", HAS_SOME.replace("{table}", "event"))
)

PAGE_ROWS_MAX = 1024
PAGE_BYTES_MAX = 2 * 1024 * 1024
# Past either a commit is `truncated`, and its subscribers read a snapshot. A row costs some 2 microseconds of the event
# loop at each step, however small it is. One row for each topic comes on top, since a snapshot of each costs more.
COMMIT_SIZE_MAX_BYTES = 16 * 1024 * 1024
COMMIT_ROWS_MAX = 10_000


class PageRequest(NamedTuple):
    """Commits from `number` (after its `seq`) to `last`."""

    number: int
    seq: int
    last: int


class Page(NamedTuple):
    """Rows in order; `more` tells whether there are further ones up to the request's last commit."""

    rows: Sequence[Any]
    more: bool


FetchPage = Callable[[PageRequest], Awaitable[Page]]
FindTouched = Callable[[Commit], Awaitable[Collection[Topic]]]


class Only(NamedTuple):
    """Rows of these streams and groups at most (None: of all): of every pair, or of those side by side."""

    streams: Sequence[str] | None
    group_ids: Sequence[str] | None
    are_pairs: bool = False


async def read_page(
    connection: Connection,
    request: PageRequest,
    only: Only | None = None,
    *,
    xids: XidRange | None = None,
    rows_max: int = PAGE_ROWS_MAX,
    bytes_max: int = PAGE_BYTES_MAX,
    timeout_seconds: float,
) -> Page:
    """One page, of at least one row if there is one; `xids` is where its commits are, if that is known."""
    only = only or Only(None, None)
    xids = xids or await read_xid_range(connection, request.number, timeout_seconds=timeout_seconds)
    rows = await connection.fetch(READ_COMMITS, *request, rows_max, bytes_max, *only, *xids, timeout=timeout_seconds)
    found = rows[0]["found"] if rows else 0
    return Page(rows, more=len(rows) < found or found == rows_max)


async def read_after(
    fetch: FetchPage,
    number: int,
    last: int,
    is_wanted: Callable[[Topic], bool],
    find_touched: FindTouched | None = None,
    find_next: FindNext | None = None,
) -> AsyncIterator[Sequence[Commit]]:
    """Whole commits after `number` up to `last`, in order, those together that come with one page.

    Each has the groups that are wanted when it is read; what isn't wanted is dropped at once. Of one that is too much
    the rest is not read if `find_touched` answers which of the wanted topics it touches. Raises what these three raise.
    """
    assembly = _Assemblies(is_wanted)
    request = PageRequest(number + 1, -1, last)
    stride = Stride(find_next)
    while request.number <= last:
        if request.seq < 0:
            request = request._replace(number=await stride.pass_over(request.number - 1, last) + 1)
            if request.number > last:
                return
        until = stride.until(request.number - 1, last)
        before = request.number
        page = await fetch(request._replace(last=until))
        commits = [commit for row in page.rows if (commit := assembly.add(row)) is not None]
        if page.more:
            row = page.rows[-1]
            # A commit without rows is passed as a whole; any other may go on in the next page.
            request = PageRequest(row["number"] + (row["seq"] is None), -1 if row["seq"] is None else row["seq"], last)
            if find_touched is not None and assembly.is_truncated and (commit := assembly.finish()) is not None:
                Assembly(commit).truncate(await find_touched(commit))
                commits.append(commit)
                request = PageRequest(commit.number + 1, -1, last)
        else:
            request = PageRequest(until + 1, -1, last)
            if (commit := assembly.finish()) is not None:
                commits.append(commit)
        stride.note(request.number - before, len(commits))
        yield commits


def whole_commits(rows: Sequence[Any], is_wanted: Callable[[Topic], bool]) -> Sequence[Commit]:
    """The commits that these rows are all of."""
    assembly = _Assemblies(is_wanted)
    commits = [commit for row in rows if (commit := assembly.add(row)) is not None]
    if (commit := assembly.finish()) is not None:
        commits.append(commit)
    return commits


class Assembly:
    """Gathers the rows of one commit."""

    def __init__(self, commit: Commit) -> None:
        self.commit = commit
        self._size = self._rows = 0

    def add(self, topic: Topic, kind: str, seq: int, id: Any, op: Any, version: int, data: str | None) -> None:
        """The next row; one without data, id and op is too large by itself."""
        commit = self.commit
        group = commit.groups.get(topic)
        if group is None:
            group = commit.groups[topic] = GroupCommit([], [])
        if data is not None:
            self._size += len(data) + len(op) + len(id or "")
        self._rows += 1
        is_too_much = self._size > COMMIT_SIZE_MAX_BYTES or self._rows > COMMIT_ROWS_MAX + len(commit.groups)
        if (data is None or is_too_much) and not commit.truncated:
            self.truncate(())
        if commit.truncated or data is None:
            return
        if kind == "event":
            group.events.append(Event(seq, id, op, data))
        else:
            group.changes.append(Change(seq, op, id, version, data))

    def truncate(self, topics: Collection[Topic]) -> None:
        """It is too much, also of `topics`, whether a row of theirs has been added or not."""
        self.commit.truncated = True
        self.commit.groups |= {topic: GroupCommit([], []) for topic in topics}
        for part in self.commit.groups.values():
            part.changes.clear()
            part.events.clear()

    def lose(self, topic: Topic) -> None:
        """One of the topic's rows can't be read."""
        self.commit.groups[topic] = GroupCommit([], [])
        self.commit.unreadable |= {topic}


class _Assemblies:
    """Puts rows together to commits."""

    def __init__(self, is_wanted: Callable[[Topic], bool]) -> None:
        self._is_wanted = is_wanted
        self._assembly: Assembly | None = None

    @property
    def is_truncated(self) -> bool:
        """Whether the commit of the last row is too much."""
        return self._assembly is not None and self._assembly.commit.truncated

    def add(self, row: Any) -> Commit | None:
        """Take the next row; returns the commit before it, if it begins a new one."""
        number, xid, at_ms, kind, seq, stream, group_id, id, op, version, data, *_ = row
        done = None
        assembly = self._assembly
        if assembly is None or assembly.commit.number != number:
            done = self.finish()
            assembly = self._assembly = Assembly(Commit(number, xid, float(at_ms), {}))
        if kind is not None and self._is_wanted(topic := Topic(stream, group_id)):
            assembly.add(topic, kind, seq, id, op, version, data)
        return done

    def finish(self) -> Commit | None:
        """The rows have come to an end: returns the last commit, which is whole now."""
        assembly, self._assembly = self._assembly, None
        return None if assembly is None else assembly.commit
