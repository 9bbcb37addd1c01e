"""Asks rules again for what is subscribed already, when it is said that their answers may have changed.

Anybody with a connection to the database can say so. It does nothing more than that rules are asked.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Any

CHANNEL = "tidelog_recheck"
HINT_LENGTH_MAX = 8000  # of a NOTIFY's payload
HINTS_MAX = 100  # that wait; of more it is all that is asked again
# Between two rounds; and at least as long as the last one took: who floods us with hints has rules asked half of the
# time, for as many as are asked at once.
PAUSE_SECONDS = 0.2

_NAMES = ("subject", "stream", "group")


@dataclass(frozen=True, slots=True)
class Hint:
    """Whose subscriptions are asked for again; what is None says nothing of them."""

    subject: str | None = None
    stream: str | None = None
    group: str | None = None

    @classmethod
    def of(cls, payload: object) -> Hint | None:
        """Of a NOTIFY: a JSON object, or nothing for all. None if it is neither."""
        text = str(payload)
        try:
            said: Any = json.loads(text) if text and len(text) <= HINT_LENGTH_MAX else {} if not text else None
        except (ValueError, RecursionError):
            return None
        if not isinstance(said, dict) or said.keys() - set(_NAMES):
            return None
        if not all(value is None or isinstance(value, str) for value in said.values()):
            return None
        return cls(**said)

    def is_about(self, subject: str | None, stream: str, group: str) -> bool:
        """Whether it is about a subscription."""
        return self.subject in (None, subject) and self.stream in (None, stream) and self.group in (None, group)


ALL = Hint()

AskAgain = Callable[[Collection[Hint]], Awaitable[None]]


class Recheck:
    """Gathers hints, and works on them one round after the other."""

    def __init__(self, ask_again: AskAgain) -> None:
        """`ask_again` returns when all that the hints are about has been asked for."""
        self._ask_again = ask_again
        self._hints: set[Hint] = set()
        self._task: asyncio.Task[None] | None = None

    def note(self, hint: Hint) -> None:
        """To be asked again, soon."""
        if ALL in self._hints:
            return
        self._hints.add(hint)
        if hint == ALL or len(self._hints) > HINTS_MAX:
            self._hints = {ALL}
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    def note_payload(self, payload: object) -> None:
        """A NOTIFY has come."""
        hint = Hint.of(payload)
        if hint is not None:
            self.note(hint)

    def close(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._hints:
                hints, self._hints = self._hints, set()
                began = loop.time()
                await self._ask_again(hints)
                await asyncio.sleep(max(PAUSE_SECONDS, loop.time() - began))
        finally:
            self._task = None
