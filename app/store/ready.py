"""Past commits as ready messages: the database makes them, for the usual commit that has one change to tell of.

The others (several changes, events, a commit larger than a page) are left to reading.py.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from app.store.queries import load
from app.store.reading import COMMITS_AT_ONCE

if TYPE_CHECKING:
    from app.model.change import Topic
    from app.store.reading import Connection

READ_READY = load("read_ready")

# Read to begin with, and up to twice as many each time: little is read in vain where most commits aren't ready.
ROWS_FIRST = 64
ROWS_MAX = 1024
BYTES_MAX = 256 * 1024  # is handed to one connection at once, whose buffer grows by it at most


class Wording(NamedTuple):
    """How a message is made: an SQL expression (see read_ready.sql), and its words, as `($1::text[])[1]` in it."""

    sql: str
    words: Sequence[str]


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


async def fetch_ready(
    connection: Connection, request: ReadyRequest, wording: Wording, topic: Topic, item_id: str | None
) -> Sequence[Any]:
    """One page's rows: number and message."""
    query = READ_READY.replace("{message}", wording.sql)
    return await connection.fetch(query, wording.words, *topic, item_id, *request, BYTES_MAX)


async def read_ready(fetch: FetchReady, number: int, last: int) -> AsyncGenerator[ReadyPage, None]:
    """The commits after `number` up to `last`, or up to the first that isn't ready. Raises what `fetch` raises."""
    rows_max = ROWS_FIRST
    while number < last:
        until = min(last, number + COMMITS_AT_ONCE)
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
