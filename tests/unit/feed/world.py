"""A whole feed on a log in memory."""

from __future__ import annotations

from typing import Any, cast

from tests.unit.feed.fakes import EPOCH, TIDELOG, FakeArchive, Person
from tidelog.feed.broadcaster import Broadcaster
from tidelog.model.change import Commit, Operation, Topic
from tidelog.settings import Settings
from tidelog.store.archive import Archive


class World:
    """What is written is numbered, and published as by the reader."""

    def __init__(self, archive: FakeArchive) -> None:
        self.archive = archive
        self.feed = Broadcaster(cast("Archive", archive), Settings())
        self.feed.begin_epoch(EPOCH)

    def person(self, dialect: Any = TIDELOG) -> Person:
        """A connection."""
        person = Person(dialect)
        self.feed.enter(person)
        return person

    def write(self, *topics: Topic, id: str = "i", op: Operation = "update", is_large: bool = False) -> Commit:
        commit = self.archive.write(*topics, id=id, op=op)
        commit.truncated = is_large
        self.publish(commit)
        return commit

    def publish(self, *commits: Commit) -> None:
        self.feed.publish(commits)
        self.feed.settle()

    async def close(self) -> None:
        await self.feed.close()
