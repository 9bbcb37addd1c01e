"""How far ahead the next page of past commits looks, and what is passed over unread.

Where few commits have anything of what is wanted, the next one that has is looked up; where many have, they are walked
through. So coming back costs by what was missed, not by what all others did meanwhile.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

COMMITS_AT_ONCE = 4096  # how far ahead one page looks: what a reader of a quiet group passes in one statement
_AFTER_LOOKUP = 64  # the one that was found is among the next few: those that ran beside it come before it
_FIRST = 1024
_GROWS_BY = 4
_SPARSE = 16  # a lookup is worth so many commits' walk

FindNext = Callable[[int, int], Awaitable[int]]  # of number and last: up to which number, at most last, all is nobody's


class Stride:
    """Of one reader, who goes on from page to page."""

    def __init__(self, find_next: FindNext | None) -> None:
        self._find_next = find_next
        self._is_sparse = find_next is not None
        self._size = COMMITS_AT_ONCE if find_next is None else _FIRST

    async def pass_over(self, number: int, last: int) -> int:
        """Up to where there is nothing to read: `number`, or a later one. Raises what looking it up raises."""
        if self._find_next is None or not self._is_sparse or last - number <= _AFTER_LOOKUP:
            return number
        return await self._find_next(number, last)

    def until(self, number: int, last: int) -> int:
        """The last commit of the next page, after `number`."""
        return min(last, number + self._size)

    def note(self, commits: int, found: int) -> None:
        """A page went through so many commits, and found so many."""
        if self._find_next is None:
            return
        self._is_sparse = found * _SPARSE < commits
        self._size = _AFTER_LOOKUP if self._is_sparse else min(self._size * _GROWS_BY, COMMITS_AT_ONCE)
