"""What keeps subscriptions from being served: told to the log once for each cause, and to readiness while it lasts.

It knows causes by name, and nothing of what is tried again, or of who is told.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Collection
from dataclasses import dataclass, field

import asyncpg

logger = logging.getLogger("tidelog.subscriptions")

# A cause that nobody meets any more for so long is taken for over: perhaps nobody tries. Longer than a try and the
# pauses between tries, so that one cause is not told anew for each subscription that it ends.
QUIET_SECONDS = 60.0

TABLE_IS_GONE = "a table is gone. Run tidelog migrate"

Kind = tuple[str | None, str]  # whose trouble it is (None: all streams'), and what


@dataclass(eq=False, slots=True)
class Cause:
    """One that is known."""

    text: str
    is_bug: bool = False  # others may well succeed meanwhile
    failing: set[object] = field(default_factory=set)  # who tries again because of it
    forgetting: asyncio.TimerHandle | None = None  # only while nobody does


class Troubles:
    """The causes of now. Whoever tries something is an object of the caller's."""

    def __init__(self, quiet_seconds: float = QUIET_SECONDS) -> None:
        self._quiet_seconds = quiet_seconds
        self._causes: dict[Kind, Cause] = {}

    @property
    def of_all(self) -> str | None:
        """What concerns every stream, if anything does."""
        return "; ".join(cause.text for (stream, _), cause in self._causes.items() if stream is None) or None

    @property
    def of_streams(self) -> dict[str, str]:
        """What concerns single streams, by their names."""
        texts: dict[str, str] = {}
        for (stream, _), cause in self._causes.items():
            if stream is not None:
                texts[stream] = f"{texts[stream]}; {cause.text}" if stream in texts else cause.text
        return texts

    def note(self, who: object, stream: str | None, error: BaseException) -> None:
        """This one failed, for a reason of this stream's, or of none, and tries again."""
        kind = (stream, _kind_of(error))
        for other in self._met_by(who):
            if other != kind:
                self._let_go(other, who)
        cause = self._causes.get(kind)
        if cause is None:
            cause = self._causes[kind] = Cause("")
            logger.warning("%s: %s", _subject(stream), _text_of(error))
        cause.text = _text_of(error)
        cause.failing.add(who)
        if cause.forgetting is not None:
            cause.forgetting.cancel()
            cause.forgetting = None

    def note_bug(self, streams: Collection[str], error: BaseException) -> None:
        """What should not happen, to subscribers of these streams, who are sent away."""
        *_, (frame, line) = traceback.walk_tb(error.__traceback__)
        place = f"{frame.f_code.co_filename}:{line}"
        if not any((stream, place) in self._causes for stream in streams):
            logger.error("%s: %s", _subject(min(streams, default=None)), _text_of(error), exc_info=error)
        for stream in streams:
            cause = self._causes.setdefault((stream, place), Cause(_text_of(error), is_bug=True))
            if cause.forgetting is not None:
                cause.forgetting.cancel()
            self._forget_later((stream, place), cause)

    def succeed(self, who: object, stream: str | None) -> None:
        """What this one tried, for this stream, is done: what nobody else fails for is over."""
        for kind in self._met_by(who):
            self._causes[kind].failing.discard(who)
        for kind, cause in list(self._causes.items()):
            if not cause.failing and not cause.is_bug and kind[0] in (None, stream):
                self._end(kind)

    def leave(self, who: object) -> None:
        """This one tries no more, whatever came of it."""
        for kind in self._met_by(who):
            self._let_go(kind, who)

    def _met_by(self, who: object) -> list[Kind]:
        return [kind for kind, cause in self._causes.items() if who in cause.failing]

    def _let_go(self, kind: Kind, who: object) -> None:
        cause = self._causes[kind]
        cause.failing.discard(who)
        if not cause.failing:
            self._forget_later(kind, cause)

    def _forget_later(self, kind: Kind, cause: Cause) -> None:
        cause.forgetting = asyncio.get_running_loop().call_later(self._quiet_seconds, self._end, kind)

    def _end(self, kind: Kind) -> None:
        cause = self._causes.pop(kind)
        if cause.forgetting is not None:
            cause.forgetting.cancel()
        logger.warning("%s: over: %s", _subject(kind[0]), cause.text)


def _subject(stream: str | None) -> str:
    return "subscriptions can't be served" if stream is None else f"subscriptions to {stream!r} can't be served"


def _kind_of(error: BaseException) -> str:
    """Equal for one cause, though its words have a position or an address in them."""
    return f"{type(error).__name__} {getattr(error, 'errno', None)}"


def _text_of(error: BaseException) -> str:
    """What readiness tells strangers of, up to a colon, is then what to do, if that is known."""
    remedy = f"{TABLE_IS_GONE}: " if isinstance(error, asyncpg.UndefinedTableError) else ""
    return f"{remedy}{type(error).__name__}: {error}".removesuffix(": ")
