"""Which streams a caller may have: asked of the stream's rule, for each way in. Denied, failed and timed out are one.

Who may not have a stream doesn't learn whether there is one: all denials are the same, and take about as long.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import secrets
import time
from collections import deque
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tidelog.access.authors import AuthorFunctions
from tidelog.access.caller import Caller
from tidelog.access.causes import Causes
from tidelog.model.rule import Function
from tidelog.model.stream import Stream

Mode = Literal["open", "declared", "closed"]  # of streams without a rule
Operation = Literal["subscribe", "read", "history", "list"]

Verdict = Literal["yes", "no", "failed"]  # the last is a no, of which it isn't known whether it is meant

TIMES_KEPT = 16  # of a rule's last answers

FAILED = object()

_random = random.Random()  # noqa: S311 - of how long a rule took; nothing is guarded by it


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody wants to have: a group, or an item of it; or, to list its groups, the stream (no group)."""

    stream: str
    group_id: str | None
    id: str | None = None
    operation: Operation = "subscribe"

    def shown(self) -> dict[str, Any]:
        """What an author's function gets; its own, to do with as it likes."""
        shown: dict[str, Any] = {"stream": self.stream, "groupId": self.group_id, "operation": self.operation}
        return shown if self.id is None else {**shown, "id": self.id}


class Access:
    """The one place that decides. Whatever serves a stream's items, events or history asks here first."""

    def __init__(
        self, streams: Mapping[str, Stream] | Iterable[str], functions: AuthorFunctions, causes: Causes
    ) -> None:
        """Of names alone, nothing has a rule."""
        named = streams.items() if isinstance(streams, Mapping) else ((name, None) for name in streams)
        self._streams = dict(named)
        self._functions = functions
        self._causes = causes
        self._ruled = sorted(name for name in self._streams if self._function(name, "can_access"))
        self._times: dict[str, deque[float]] = {name: deque(maxlen=TIMES_KEPT) for name in self._ruled}
        self._key = secrets.token_bytes(16)

    def has_rule(self, stream: str) -> bool:
        """Whether it depends on more than who asks: a rule's answer may change."""
        return stream in self._times

    def at_once(self, caller: Caller, stream: str, mode: Mode) -> bool | None:
        """Whether this caller may have all of the stream; None if that takes `may` and `join`."""
        if stream in self._streams and not self.has_rule(stream) and _is_free(caller, mode):
            return None if self._function(stream, "on_join") or self._function(stream, "on_leave") else True
        # Without rules, a denial is as quick for what there is as for what there isn't.
        return None if self._ruled else False

    async def may(self, caller: Caller, wish: Wish, mode: Mode) -> bool:
        """Whether this caller may have that, now: what every way to a stream asks."""
        return await self.verdict(caller, wish, mode) == "yes"

    async def verdict(self, caller: Caller, wish: Wish, mode: Mode) -> Verdict:
        """The same; and whether it failed, which is to be told to nobody who asks for the first time."""
        began = time.monotonic()
        rule = self._function(wish.stream, "can_list" if wish.operation == "list" else "can_access")
        if rule is None:
            # A rule for groups says nothing of their names: it may never have been asked about None.
            if wish.stream in self._streams and not self.has_rule(wish.stream) and _is_free(caller, mode):
                return "yes"
            await self._imitate(wish.stream, began)
            return "no"
        answer = await self._ask(rule, wish, caller)
        if (times := self._times.get(wish.stream)) is not None:
            times.append(time.monotonic() - began)
        if answer is FAILED:
            return "failed"
        if answer is not True and answer is not False and answer is not None:
            self._causes.warn(
                (wish.stream, rule.name), "stream %s: %s answered a %s: only True lets somebody in",
                wish.stream, rule.name, type(answer).__name__,
            )  # fmt: skip
        return "yes" if answer is True else "no"

    async def join(self, caller: Caller, wish: Wish) -> bool:
        """Tell the stream that this caller, who may, has it from now on; it may still deny that."""
        on_join = self._function(wish.stream, "on_join")
        if on_join is None:
            return True
        answer = await self._ask(on_join, wish, caller)
        if isinstance(answer, Mapping):
            unauthorized = answer.get("unauthorized")
            return unauthorized is None or unauthorized is False
        return answer is not False and answer is not FAILED

    def leave(self, caller: Caller, wish: Wish) -> None:
        """Tell the stream, beside what goes on, that a caller who joined has it no more. To be called once."""
        on_leave = self._function(wish.stream, "on_leave")
        if on_leave is not None:
            self._functions.spawn(self._ask(on_leave, wish, caller))

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that asks, which may outlive who asked: what an author's function began, it may end."""
        return self._functions.spawn(work)

    async def _ask(self, function: Function, wish: Wish, caller: Caller) -> Any:
        """Its answer, or FAILED."""
        try:
            return await self._functions.ask(function, wish.shown(), caller.auth)
        except Exception as error:
            self._causes.tell(f"stream {wish.stream}: {function.name}", error)
            return FAILED

    async def _imitate(self, stream: str, began: float) -> None:
        """Take as long as a rule: always that of the same stream for a name, so that asking again tells nothing."""
        if not self._ruled:
            return
        digest = hashlib.blake2b(stream.encode(), key=self._key, digest_size=8).digest()
        times = self._times[self._ruled[int.from_bytes(digest) % len(self._ruled)]]
        if times:
            await asyncio.sleep(_random.choice(times) - (time.monotonic() - began))

    def _function(self, stream: str, name: str) -> Function | None:
        declared = self._streams.get(stream)
        return None if declared is None else getattr(declared.rule, name)


def _is_free(caller: Caller, mode: Mode) -> bool:
    return mode == "open" or (mode == "declared" and caller.is_known)
