"""What of one connection has a position and is on its way to being live: gathered, so that it reads the log together.

A page that comes back after a restart brings all its subscriptions at once: each of them alone would cost the whole
gap.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from weakref import WeakMethod

from tidelog.errors import TidelogError
from tidelog.feed.catch_up.means import Means
from tidelog.feed.catch_up.outcome import BeginAgain
from tidelog.feed.catch_up.replay import Replay
from tidelog.feed.catch_up.resume import check_positions
from tidelog.feed.patience import Patience
from tidelog.feed.subscription import PositionSubscription, Subscriber, Subscription
from tidelog.feed.tasks import Tasks
from tidelog.model.position import Position
from tidelog.store.stride import COMMITS_AT_ONCE

# Those that are further back read the log apart: who has just got a snapshot isn't kept from being live by a long one.
NEAR_COMMITS_MAX = COMMITS_AT_ONCE


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What is done with those that don't get live, and when some have."""

    begin_again: BeginAgain
    refuse: Callable[[Subscription, TidelogError], None]
    note_caught_up: Callable[[Subscriber], None]


@dataclass(frozen=True, slots=True)
class Replays:
    """Runs replays, one task for each."""

    means: Means
    tasks: Tasks
    patience: Patience
    outcomes: Outcomes

    def start(
        self,
        subscriber: Subscriber,
        cursors: Mapping[Subscription, int],
        on_end: Callable[[], None] = lambda: None,
        *,
        is_new: bool,
    ) -> Replay:
        """Bring these to the present, each from its cursor on. The replay is attached when this returns."""
        replay = Replay(self.means, subscriber, cursors, self.outcomes.begin_again, is_new=is_new)
        replay.attach()
        replay.task = self.tasks.spawn(self._run(replay), lambda: replay.served)

        def end(_task: object) -> None:
            """Whatever happened, also if it was cancelled before it began: others of the connection wait for it."""
            replay.end()
            on_end()

        replay.task.add_done_callback(end)
        return replay

    async def _run(self, replay: Replay) -> None:
        await self.patience.retrying(replay.catch_up, mark=lambda: replay.cursor)
        self.outcomes.note_caught_up(replay.subscriber)


class Arrivals:
    """One connection's: first their positions are checked, then they go on, as many as there are, in one replay.

    Those that come meanwhile go on in the next one. `on_idle` is called when there are none left.
    """

    def __init__(self, replays: Replays, subscriber: Subscriber, on_idle: Callable[[Arrivals], None]) -> None:
        self.subscriber = subscriber
        self._replays = replays
        self._means, self._outcomes = replays.means, replays.outcomes
        self._on_idle = on_idle
        self._unchecked: dict[PositionSubscription, Position] = {}
        self._checked: dict[Subscription, int] = {}  # until there are no unchecked ones: they go on together
        self._near, self._far = self._lane(), self._lane()
        self._task: asyncio.Task[None] | None = None  # while there are unchecked ones

    def resume(self, subscription: PositionSubscription, since: Position) -> None:
        """This one comes back: it goes on from there, if that can be."""
        self._means.registry.note_stage([subscription], self)
        self._unchecked[subscription] = since
        if self._task is None:
            self._task = self._replays.tasks.spawn(self._check(), lambda: [*self._unchecked, *self._checked])

    def go_on(self, cursors: Mapping[Subscription, int]) -> None:
        """Each of these has everything up to its cursor."""
        nearest = self._means.progress.position - NEAR_COMMITS_MAX
        self._near.add({one: cursor for one, cursor in cursors.items() if cursor >= nearest})
        self._far.add({one: cursor for one, cursor in cursors.items() if cursor < nearest})

    def drop(self, subscription: Subscription) -> None:
        """Part of the registry's Stage: this one has ended; its position was being checked."""
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
                await self._replays.patience.retrying(self._check_some)
            except TidelogError as error:
                unchecked, self._unchecked = self._unchecked, {}
                for subscription in unchecked:
                    self._outcomes.refuse(subscription, error)
        self._task = None
        self.go_on(self._checked)
        self._checked = {}
        self._note_idle()

    async def _check_some(self) -> None:
        """Check those that are there now."""
        progress = self._means.progress
        generation, batch = progress.generation, dict(self._unchecked)
        if not batch:
            return  # they have ended, in the pause after a failure
        checked = await check_positions(self._means.archive, batch)
        for subscription, reason in checked.refused.items():
            if subscription in self._unchecked:
                del self._unchecked[subscription]
                self._outcomes.begin_again(subscription, reason)
        # Not live before all that was there when they came: this process may be a moment behind.
        if not await progress.reached(checked.head, generation):
            return
        for subscription, since in batch.items():
            if subscription in self._unchecked:
                del self._unchecked[subscription]
                self._checked[subscription] = since.number

    def _lane(self) -> Lane:
        return Lane(self._replays, self.subscriber, self._note_idle)

    def _note_idle(self) -> None:
        if self._task is None and not self._near.is_busy and not self._far.is_busy:
            self._on_idle(self)


class Lane:
    """One replay after the other, each for all that gathered while the one before it was at work."""

    def __init__(self, replays: Replays, subscriber: Subscriber, on_idle: Callable[[], None]) -> None:
        self._replays = replays
        self._subscriber = subscriber
        self._on_idle = WeakMethod(on_idle)  # its owner's, which has this lane: a circle, else
        self._waiting: dict[Subscription, int] = {}
        self._replay: Replay | None = None

    @property
    def is_busy(self) -> bool:
        return self._replay is not None

    def add(self, cursors: Mapping[Subscription, int]) -> None:
        """Deliver to these, too, each from its cursor on."""
        self._replays.means.registry.note_stage(cursors, self)
        self._waiting |= cursors
        if self._replay is None:
            self._start()

    def drop(self, subscription: Subscription) -> None:
        """Part of the registry's Stage."""
        if subscription in self._waiting:
            del self._waiting[subscription]
        elif self._replay is not None:
            self._replay.drop(subscription)

    def _start(self) -> None:
        if self._waiting:
            cursors, self._waiting = self._waiting, {}
            self._replay = self._replays.start(self._subscriber, cursors, self._go_on, is_new=True)

    def _go_on(self) -> None:
        self._replay = None
        self._start()
        if self._replay is None and (on_idle := self._on_idle()) is not None:
            on_idle()
