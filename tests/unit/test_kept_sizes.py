"""What is kept in memory is bounded by all that its rows hold, not by their data or their number alone."""

from __future__ import annotations

import pytest

from tidelog.feed.catch_up.overlay import KEPT_CHARACTERS_MAX, Overlay
from tidelog.model.change import Change, Commit, Event, GroupCommit, Topic
from tidelog.store.reading import COMMIT_SIZE_MAX_BYTES, Assembly

TOPIC = Topic("s", "g")
LONG = "x" * (COMMIT_SIZE_MAX_BYTES // 4)


@pytest.mark.parametrize(("id", "data"), [("a", LONG), (LONG, "{}")])
async def test_what_is_kept_beside_a_snapshot_is_bounded_in_characters(id: str, data: str) -> None:
    """Few changes may be very much: then the snapshot is read again."""
    overlay = Overlay(lambda: None)
    changes = [Change(1, "update", id, 1, data)]
    fits = KEPT_CHARACTERS_MAX // (len(id) + len(data))
    for number in range(fits):
        overlay.keep(Commit(number, number, 0.0, {}), TOPIC, GroupCommit(changes, []), changes)
    assert not overlay._overflown
    overlay.keep(Commit(fits, fits, 0.0, {}), TOPIC, GroupCommit(changes, []), changes)
    assert await overlay.settled() == "overflown"


@pytest.mark.parametrize("place", ["id", "op", "data"])
@pytest.mark.parametrize("kind", ["change", "event"])
def test_a_commit_is_as_large_as_all_that_its_rows_hold(kind: str, place: str) -> None:
    """An id or a type counts as data does, for what is carried and for what is kept."""
    row = {"id": "a", "op": "update", "data": "{}", place: LONG}
    commit = Commit(1, 1, 0.0, {})
    assembly = Assembly(commit)
    for seq in range(3):
        assembly.add(TOPIC, kind, seq, row["id"], row["op"], 1, row["data"])
    assert not commit.truncated
    if (kind, place) != ("change", "op"):  # which is one of three words, and no part of what is kept
        assert commit.groups[TOPIC].size > 3 * len(LONG)
    assembly.add(TOPIC, kind, 3, row["id"], row["op"], 1, row["data"])
    assert commit.truncated


def test_an_event_to_a_whole_group_has_no_id_to_count() -> None:
    """It is as large as its type and its data."""
    assert GroupCommit([], [Event(1, None, "typing", "{}")]).size == len("typing{}")
