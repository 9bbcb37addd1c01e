"""Past commits as ready messages: which are handed out, where it ends."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidelog.store import ready, stride
from tidelog.store.ready import ReadyRequest, read_ready

MESSAGES_MAX = 6  # of a page, in this test


class Log:
    """Commits from 1 on, each a list of its rows: messages, or None for an event. It answers as read_ready.sql does."""

    def __init__(self, commits: Sequence[Sequence[bytes | None]]) -> None:
        self._rows = [(number, row) for number, rows in enumerate(commits, 1) for row in rows]

    async def fetch(self, request: ReadyRequest) -> list[tuple[int, bytes | None]]:
        rows = [row for row in self._rows if request.first <= row[0] <= request.last][: request.rows_max]
        page, size = [], 0
        for number, message in rows:
            if size >= ready.BYTES_MAX:
                break
            page.append((number, message))
            size += len(message or b"")
        return page


message = st.integers(1, 40).map(lambda size: b"x" * size)
rows = st.one_of(
    st.lists(message, min_size=1, max_size=1),  # more often than the others
    st.lists(message, min_size=1, max_size=1),
    st.lists(st.one_of(message, st.none()), max_size=3),
)


@given(commits=st.lists(rows, max_size=30), after=st.integers(0, 5), bytes_max=st.integers(1, 100))
async def test_all_commits_of_one_change_up_to_another_or_one_that_fills_a_page(
    commits: list[list[bytes | None]], after: int, bytes_max: int
) -> None:
    """In order, none left out: whoever reads on behind the last page's number misses nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ready, "ROWS_FIRST", 2)
        patch.setattr(ready, "ROWS_MAX", MESSAGES_MAX)
        patch.setattr(ready, "BYTES_MAX", bytes_max)
        patch.setattr(stride, "COMMITS_AT_ONCE", 7)
        position, got = after, []
        async for page in read_ready(Log(commits).fetch, after, len(commits)):
            assert len(page.messages) <= MESSAGES_MAX
            assert page.number > position
            position = page.number
            got += page.messages
    passed = commits[after:position]
    assert got == [row for rows in passed for row in rows]
    assert all(len(rows) <= 1 and None not in rows for rows in passed)
    if position < len(commits):
        ends_it = next(rows for rows in commits[position:] if rows)
        assert len(ends_it) > 1 or None in ends_it or sum(len(row or b"") for row in ends_it) >= bytes_max
