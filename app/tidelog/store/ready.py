"""Past commits as ready messages: the database makes them, for the usual commit that has one change to tell of.

The others (several changes, events, a commit larger than a page) are left to reading.py.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tidelog.store.queries import load
from tidelog.store.stride import FindNext, Stride
from tidelog.store.xid_range import read_xid_range

if TYPE_CHECKING:
    from tidelog.model.change import Topic
    from tidelog.store.reading import Connection

READ_READY = load("read_ready")
READ_READY_MANY = load("read_ready_many")

# Read to begin with, and up to twice as many each time: little is read in vain where most commits aren't ready.
ROWS_FIRST = 64
ROWS_MAX = 1024
XIDS_TIMEOUT_SECONDS = 30.0  # a dead connection shows itself
COMMITS_MIN = 256  # that a page looks at, also of few rows
BYTES_MAX = 256 * 1024  # is handed to one connection at once, whose buffer grows by it at most


class Wording(NamedTuple):
    """How a message is made: an SQL expression (see read_ready.sql), and its two words, as `{words}[1]` in it."""

    sql: str
    words: tuple[str, str]


class OneWanted(NamedTuple):
    """The commits of one group, or of one item of it."""

    topic: Topic
    item_id: str | None
    wording: Wording


class ManyWanted:
    """The commits of many groups, in messages of one expression. Where there is no wording, none is ready."""

    def __init__(self, wordings: Mapping[Topic, Wording | None]) -> None:
        self.sql = next(wording.sql for wording in wordings.values() if wording is not None)
        words: dict[str, dict[str, Sequence[str] | None]] = {}
        for topic, wording in wordings.items():
            words.setdefault(topic.stream, {})[topic.group_id] = None if wording is None else wording.words
        self.words = json.dumps(words)


Wanted = OneWanted | ManyWanted


class ReadyRequest(NamedTuple):
    """The commits from `first` to `last`."""

    first: int
    last: int
    rows_max: int


class ReadyPage(NamedTuple):
    """Messages, as UTF-8, of all commits up to `number`."""

    messages: list[bytes]
    number: int


FetchReady = Callable[[ReadyRequest], Awaitable[Sequence[Any]]]


async def fetch_ready(connection: Connection, request: ReadyRequest, wanted: Wanted) -> Sequence[Any]:
    """One page's rows: number and message."""
    xids = await read_xid_range(connection, request.first, timeout_seconds=XIDS_TIMEOUT_SECONDS)
    if isinstance(wanted, ManyWanted):
        query = READ_READY_MANY.replace("{message}", wanted.sql.replace("{words}", "given.words"))
        return await connection.fetch(query, wanted.words, *request, BYTES_MAX, *xids)
    query = READ_READY.replace("{message}", wanted.wording.sql.replace("{words}", "($1::text[])"))
    words = wanted.wording.words
    return await connection.fetch(query, words, *wanted.topic, wanted.item_id, *request, BYTES_MAX, *xids)


async def read_ready(
    fetch: FetchReady, number: int, last: int, find_next: FindNext | None = None
) -> AsyncGenerator[ReadyPage, None]:
    """The commits after `number` up to `last`, or up to the first that isn't ready. Raises what the two given raise."""
    rows_max = ROWS_FIRST
    stride = Stride(find_next)
    while number < last:
        if (passed := await stride.pass_over(number, last)) > number:
            number = passed
            yield ReadyPage([], number)
            continue
        # Of commits with one change each the page isn't full: a full one may lack some of its last commit.
        until = min(stride.until(number, last), number + max(rows_max - 1, COMMITS_MIN))
        rows = await fetch(ReadyRequest(number + 1, until, rows_max))
        messages, doubtful = _sort_out(rows, rows_max)
        if doubtful is not None:
            if not messages:
                return
            until = doubtful - 1
        if messages:
            # As many as fit, by the size of these: the database makes none that is then cut off.
            rows_fit = BYTES_MAX * len(messages) // sum(map(len, messages))
            rows_max = min(2 * rows_max, ROWS_MAX, rows_fit + 2)
        stride.note(until - number, len(messages))
        yield ReadyPage(messages, until)
        number = until


def _sort_out(rows: Sequence[Any], rows_max: int) -> tuple[list[bytes], int | None]:
    """The ready messages at the beginning, and the number of the first commit that isn't ready, or may not be."""
    messages: list[bytes] = []
    size = before = 0
    for number, message in rows:
        if number == before:
            messages.pop()
            return messages, number
        if message is None:
            return messages, number
        messages.append(message)
        size += len(message)
        before = number
    if len(rows) == rows_max or size >= BYTES_MAX:
        messages.pop()  # there may be more of this commit
        return messages, before
    return messages, None
