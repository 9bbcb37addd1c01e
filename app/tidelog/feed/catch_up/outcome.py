"""What may come of catching up, beside what is raised and beside being live."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tidelog.feed.subscription import Subscription
from tidelog.model.position import ResetReason

# It can't go on from where it is: it needs the present state and, if it can be told, why.
BeginAgain = Callable[[Subscription, ResetReason], None]


@dataclass(frozen=True, slots=True)
class Failed:
    """This one could not be served, for a fault of ours, though others were."""

    error: Exception
