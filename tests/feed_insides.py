"""What tests look at inside of a feed, in one place."""

from __future__ import annotations

import asyncio
from typing import Any

from tidelog.feed.broadcaster import Broadcaster
from tidelog.feed.subscription import Subscription
from tidelog.feed.turns import Turns


def tasks_of(feed: Broadcaster) -> set[asyncio.Task[None]]:
    """Those that bring subscriptions to the present."""
    return feed._tasks._tasks


def turns_of(feed: Broadcaster) -> Turns:
    """Who holds a slice of these lets nobody catch up."""
    return feed.lobby._means.turns


def go_on_from(feed: Broadcaster, subscription: Subscription, cursor: int) -> None:
    """As when a snapshot of this position has been sent."""
    feed.lobby._arrivals_of(subscription.subscriber).go_on({subscription: cursor})


def left_of(feed: Broadcaster) -> list[Any]:
    """What there still is, but for the connections themselves."""
    registry, lobby = feed.registry, feed.lobby
    snapshots = lobby._snapshots._snapshots.values()
    kept: list[Any] = [
        registry.topics,
        registry.on_their_way,
        registry.snapshot_followers,
        [one for one in registry.subscribers if registry.behind(one) is not None or registry.live_of(one)],
        lobby._arrivals,
        lobby._full_syncs._syncs,
        [one for one in snapshots if one._users or not one._reading.done()],
        tasks_of(feed),
    ]
    return [one for one in kept if one]
