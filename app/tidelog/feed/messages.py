"""Messages of text, as bytes, encoded once for everybody who gets them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol


class Messages:
    """Text messages, as UTF-8, encoded once for everybody who gets them.

    `wire` is where the first connection that needs them framed for its transport leaves the frames.
    """

    __slots__ = ("payloads", "wire")

    is_long = False  # whether it is a LongMessage

    def __init__(self, payloads: Sequence[bytes]) -> None:
        self.payloads = payloads
        self.wire: bytes | None = None

    @property
    def size(self) -> int:
        return sum(map(len, self.payloads))

    @property
    def in_parts(self) -> Iterable[Sequence[bytes]]:
        """Each message, in the parts in which it is there."""
        return ((payload,) for payload in self.payloads)


class SharedMessages(Messages):
    """Some of which the first has an end that other messages have, too: it is kept once for all of them."""

    __slots__ = ("_begin", "_end", "_rest")

    def __init__(self, begin: bytes, end: bytes, rest: Sequence[bytes]) -> None:
        """First begin and end as one message, then the rest."""
        self._begin, self._end, self._rest = begin, end, rest
        self.wire = None

    @property
    def payloads(self) -> Sequence[bytes]:  # type: ignore[override]  # made when they are needed
        return [self._begin + self._end, *self._rest]

    @property
    def size(self) -> int:
        return len(self._begin) + len(self._end) + sum(map(len, self._rest))

    @property
    def in_parts(self) -> Iterable[Sequence[bytes]]:
        return [(self._begin, self._end), *((message,) for message in self._rest)]


class PagesUnreadableError(Exception):
    """A long message can't be read to its end."""


class Pages(Protocol):
    """What a long message is read from."""

    @property
    def size(self) -> int:
        """Bytes of all pages."""
        ...

    def pages(self) -> Iterator[tuple[bytes, bool]]:
        """Each page, and whether there are more. Raises PagesUnreadableError."""
        ...

    def hold(self) -> None:
        """One more reads it."""
        ...

    def close(self) -> None:
        """One less does."""
        ...


class LongMessage(Messages):
    """One message that no connection is to have in memory: it is read while it is sent.

    Who writes it later than now has to `hold` its pages, and to `close` them.
    """

    __slots__ = ("_head", "_tail", "pages")

    is_long = True

    def __init__(self, head: bytes, pages: Pages, tail: bytes) -> None:
        """Between head and tail come the pages, with commas between them."""
        self._head, self._tail = head, tail
        self.pages = pages
        self.wire = None

    def parts(self) -> Iterator[bytes]:
        """What it is, in its order."""
        yield self._head
        for page, more in self.pages.pages():
            yield page + b"," if more else page
        yield self._tail

    @property
    def payloads(self) -> Sequence[bytes]:  # type: ignore[override]  # all of it
        return [b"".join(self.parts())]

    @property
    def size(self) -> int:
        """About so many bytes."""
        return self.pages.size
