"""What of one connection has a position and is on its way to being live: gathered, so that it walks the log together.

A page that comes back after a restart brings all its subscriptions at once: each of them alone would cost the whole
gap.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING
from weakref import WeakMethod

from tidelog.errors import TidelogError
from tidelog.feed.pump import Pump
from tidelog.feed.subscription import PositionSubscription
from tidelog.store.reading import COMMITS_AT_ONCE

if TYPE_CHECKING:
    from tidelog.feed.broadcaster import Broadcaster
    from tidelog.feed.subscription import Subscriber, Subscription
    from tidelog.model.position import Position

# Those that are further back walk apart: who has just got a snapshot isn't kept from being live by a long replay.
NEAR_COMMITS_MAX = COMMITS_AT_ONCE


class Resumption:
    """One connection's: first their positions are checked, then they go on, as many as there are, in one pump.

    Those that come meanwhile go on in the next one. `on_idle` is called when there are none left.
    """

    def __init__(self, broadcaster: Broadcaster, subscriber: Subscriber, on_idle: Callable[[Resumption], None]) -> None:
        self.subscriber = subscriber
        self._broadcaster = broadcaster
        self._on_idle = on_idle
        self._unchecked: dict[PositionSubscription, Position] = {}
        self._checked: dict[Subscription, int] = {}  # until there are no unchecked ones: they go on together
        self._near, self._far = self._lane(), self._lane()
        self._task: asyncio.Task[None] | None = None  # while there are unchecked ones

    def resume(self, subscription: PositionSubscription, since: Position) -> None:
        """This one comes back: it goes on from there, if that can be."""
        self._unchecked[subscription] = since
        if self._task is None:
            self._task = self._broadcaster.errands.spawn(self._check(), lambda: [*self._unchecked, *self._checked])

    def go_on(self, cursors: Mapping[Subscription, int]) -> None:
        """Each of these has everything up to its cursor."""
        nearest = self._broadcaster.position - NEAR_COMMITS_MAX
        self._near.add({one: cursor for one, cursor in cursors.items() if cursor >= nearest})
        self._far.add({one: cursor for one, cursor in cursors.items() if cursor < nearest})

    def drop(self, subscription: Subscription) -> None:
        """This one has ended; its position was being checked."""
        if isinstance(subscription, PositionSubscription):
            self._unchecked.pop(subscription, None)
        self._checked.pop(subscription, None)
        if not self._unchecked and not self._checked and self._task is not None:
            self._task.cancel()
            self._task = None
            self._note_idle()

    async def _check(self) -> None:
        """Gather those that come while the first are being checked; then they go on."""
        while self._unchecked:
            try:
                await self._broadcaster.errands.retrying(self._check_some)
            except TidelogError as error:
                unchecked, self._unchecked = self._unchecked, {}
                for subscription in unchecked:
                    self._broadcaster.refuse(subscription, error)
        self._task = None
        self.go_on(self._checked)
        self._checked = {}
        self._note_idle()

    async def _check_some(self) -> None:
        """Check those that are there now."""
        joins = self._broadcaster.joins
        batch = dict(self._unchecked)
        if not batch:
            return  # they have ended, in the pause after a failure
        standings = {
            epoch: await self._broadcaster.archive.standing(epoch)
            for epoch in dict.fromkeys(since.epoch for since in batch.values())
        }
        for subscription, since in batch.items():
            refusal = standings[since.epoch].refusal(since.number)
            if refusal is not None and subscription in self._unchecked:
                del self._unchecked[subscription]
                self._broadcaster.begin_anew(subscription, refusal)
        # Not live before all that was there when they came: this process may be a moment behind.
        head = max(standing.head for standing in standings.values())
        if not await self._broadcaster.reached(head, joins):
            return
        for subscription, since in batch.items():
            if subscription in self._unchecked:
                del self._unchecked[subscription]
                self._checked[subscription] = since.number

    def _lane(self) -> Lane:
        return Lane(self._broadcaster, self.subscriber, self._note_idle)

    def _note_idle(self) -> None:
        if self._task is None and not self._near.is_busy and not self._far.is_busy:
            self._on_idle(self)


class Lane:
    """One pump after the other, each for all that gathered while the one before it was at work."""

    def __init__(self, broadcaster: Broadcaster, subscriber: Subscriber, on_idle: Callable[[], None]) -> None:
        self._broadcaster = broadcaster
        self._subscriber = subscriber
        self._on_idle = WeakMethod(on_idle)  # its owner's, which has this lane: a circle, else
        self._waiting: dict[Subscription, int] = {}
        self._pump: Pump | None = None

    @property
    def is_busy(self) -> bool:
        return self._pump is not None

    def add(self, cursors: Mapping[Subscription, int]) -> None:
        """Deliver to these, too, each from its cursor on."""
        self._broadcaster.note_starting(cursors, self)
        self._waiting |= cursors
        if self._pump is None:
            self._start()

    def drop(self, subscription: Subscription) -> None:
        """This one has ended."""
        if subscription in self._waiting:
            del self._waiting[subscription]
        elif self._pump is not None:
            self._pump.drop(subscription)

    def _start(self) -> None:
        if self._waiting:
            cursors, self._waiting = self._waiting, {}
            self._pump = Pump(self._broadcaster, self._subscriber, cursors, self._go_on, is_new=True)
            self._pump.start()

    def _go_on(self, _ended: Pump) -> None:
        self._pump = None
        self._start()
        if self._pump is None and (on_idle := self._on_idle()) is not None:
            on_idle()
