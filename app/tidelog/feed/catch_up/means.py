"""What every way of catching up works with: a feed has one of each."""

from __future__ import annotations

from dataclasses import dataclass

from tidelog.feed.budget import Budget
from tidelog.feed.cork import Cork
from tidelog.feed.draining import Draining
from tidelog.feed.progress import Progress
from tidelog.feed.registry import Registry
from tidelog.feed.turns import Turns
from tidelog.store.archive import Archive


@dataclass(frozen=True, slots=True)
class Means:
    """Made by the broadcaster."""

    archive: Archive
    progress: Progress
    registry: Registry
    budget: Budget
    draining: Draining
    turns: Turns
    cork: Cork
