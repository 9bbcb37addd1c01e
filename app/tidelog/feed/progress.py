"""How far this process's feed is, in which epoch, and on which connection of the reader. It calls nothing."""

from __future__ import annotations

import asyncio

from tidelog.store.log import Head

COMMIT_SLOT_MS = 0.01  # two commits are at least so far apart (app/tidelog/store/sql/number_commits.sql)


class Progress:
    """`position` and `at_ms` are those of the last published commit.

    `partial_position` is the last commit that was read in part: rows of it may have been dropped before somebody
    attached. `generation` counts how often the reader was connected: positions of an earlier one may have been lost.
    """

    def __init__(self, wanted: asyncio.Event | None = None) -> None:
        """`wanted` is set when somebody waits for the feed to move."""
        self.position = 0
        self.at_ms = 0.0
        self.epoch = ""
        self.partial_position = 0
        self.generation = 0
        self._wanted = wanted or asyncio.Event()
        self._moved = asyncio.Event()

    @property
    def furthest(self) -> int:
        """The last commit that somebody may have been given: a replay reads in the log what the reader has in part."""
        return max(self.position, self.partial_position)

    def start(self, position: int, at_ms: float) -> None:
        """The feed begins at this position."""
        self.position = self.partial_position = position
        self.at_ms = at_ms
        self.tell()

    def go_on(self, head: Head) -> None:
        """The reader is connected again, and all that was published is in the log that it found."""
        self.epoch = head.epoch
        # What another process published in the epoch before, and is lost, is older than what is sent from here on.
        self.at_ms = max(self.at_ms, head.began_at_ms)
        self.generation += 1
        self.tell()

    def go_back(self, head: Head) -> None:
        """The log that it found lacks what was published: the feed is at its head from here on.

        Who waits is told by `tell`, when those are gone that can't go on.
        """
        self.epoch = head.epoch
        self.position = self.partial_position = head.number
        # Motia's clients drop what is not newer than what they have.
        self.at_ms = max(self.at_ms + COMMIT_SLOT_MS, head.at_ms)
        self.generation += 1

    def advance(self, position: int, at_ms: float) -> None:
        """This commit has been published. Those who wait are told by `tell`."""
        self.position, self.at_ms = position, at_ms

    def tell(self) -> None:
        """Let those look who wait for the feed to move."""
        self._moved.set()
        self._moved = asyncio.Event()

    async def reached(self, position: int, generation: int) -> bool:
        """Wait until the feed is at `position` or further, and return True.

        False if the reader has been connected anew since `generation` was read: perhaps to a log without that position.
        """
        while self.generation == generation and self.position < position:
            self._wanted.set()
            await self._moved.wait()
        return self.generation == generation
