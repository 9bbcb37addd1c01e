"""One connection's subscriptions for which somebody has to be asked: until they are let in, and while they last."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection

from tidelog.access.caller import Caller
from tidelog.access.decisions import Access, Mode, Wish
from tidelog.access.recheck import Hint
from tidelog.feed.subscription import Subscription

ASKED_AT_ONCE_MAX = 8  # of one connection; the others wait, in their order

logger = logging.getLogger(__name__)


class Entrance:
    """Asks for them, lets them in or not, and tells when they are over."""

    def __init__(
        self,
        access: Access,
        caller: Caller,
        mode: Mode,
        admit: Callable[[Subscription], None],
        deny: Callable[[Subscription], None],
        fail: Callable[[Subscription], None],
    ) -> None:
        """`deny` is called for those that may not be had, or not any more; they are over then.

        `fail` is called instead for those that were let in, and of which that can't be found out any more.
        """
        self.caller = caller
        self._access = access
        self._mode = mode
        self._admit = admit
        self._deny = deny
        self._fail = fail
        self._open: dict[Subscription, bool] = {}  # those that aren't over, and whether they were let in
        self._waiting: dict[Subscription, None] = {}  # to be asked for, in their order
        self._asking: set[Subscription] = set()
        self._again: set[Subscription] = set()  # of those: the answer may be of before it changed
        self._joined: dict[Subscription, Caller] = {}  # who has to be told when it is over, as whom it began
        self._workers = 0
        self._rounds: list[asyncio.Future[None]] = []

    def ask(self, subscription: Subscription) -> None:
        """Let this one in, if its stream's rule does."""
        self._open[subscription] = False
        self._wait(subscription)

    def ask_again(self, hints: Collection[Hint]) -> asyncio.Future[None] | None:
        """Ask anew for those that the hints are about. Done when that is done; None if there are none."""
        subject = self.caller.subject
        about = [
            one
            for one in self._open
            if any(hint.is_about(subject, one.topic.stream, one.topic.group_id) for hint in hints)
            and self._access.has_rule(one.topic.stream)
        ]
        for subscription in about:
            if subscription in self._asking:
                self._again.add(subscription)
            else:
                self._wait(subscription)
        if not about:
            return None
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._rounds.append(done)
        return done

    def end(self, subscription: Subscription) -> None:
        """This one is over, by whomever; nothing happens if it has been."""
        if self._open.pop(subscription, None) is None:
            return
        self._waiting.pop(subscription, None)
        caller = self._joined.pop(subscription, None)
        if caller is not None:
            self._access.leave(caller, _wish(subscription))

    def close(self) -> None:
        """The connection has ended."""
        for subscription in list(self._open):
            self.end(subscription)

    def _wait(self, subscription: Subscription) -> None:
        self._waiting[subscription] = None
        if self._workers < ASKED_AT_ONCE_MAX:
            self._workers += 1
            self._access.spawn(self._work())

    async def _work(self) -> None:
        try:
            while self._waiting:
                subscription = next(iter(self._waiting))
                del self._waiting[subscription]
                self._asking.add(subscription)
                try:
                    await self._decide(subscription)
                except Exception:
                    logger.exception("it could not be decided who may: denied")
                    self._refuse(subscription)
                finally:
                    self._asking.discard(subscription)
                    self._again.discard(subscription)
        finally:
            self._workers -= 1
            if not self._workers:
                rounds, self._rounds = self._rounds, []
                for done in rounds:
                    if not done.done():
                        done.set_result(None)

    async def _decide(self, subscription: Subscription) -> None:
        wish = _wish(subscription)
        caller = self.caller
        verdict = await self._access.verdict(caller, wish, self._mode)
        while verdict == "yes" and subscription in self._again:
            self._again.discard(subscription)
            caller = self.caller
            verdict = await self._access.verdict(caller, wish, self._mode)
        if verdict == "failed" and self._open.get(subscription):
            self.end(subscription)
            self._fail(subscription)
        elif verdict != "yes":
            self._refuse(subscription)
        elif self._open.get(subscription) is False:
            await self._let_in(subscription, caller, wish)

    async def _let_in(self, subscription: Subscription, caller: Caller, wish: Wish) -> None:
        """Once an author's function has begun with it, it ends, also if the client is gone: it is told of the end."""
        if not await self._access.join(caller, wish):
            self._refuse(subscription)
        elif subscription not in self._open:
            self._access.leave(caller, wish)
        else:
            self._open[subscription] = True
            self._joined[subscription] = caller
            self._admit(subscription)
            if subscription in self._again:
                self._again.discard(subscription)
                self._waiting[subscription] = None

    def _refuse(self, subscription: Subscription) -> None:
        if subscription in self._open:
            self.end(subscription)
            self._deny(subscription)


def _wish(subscription: Subscription) -> Wish:
    return Wish(subscription.topic.stream, subscription.topic.group_id, subscription.item_id)
