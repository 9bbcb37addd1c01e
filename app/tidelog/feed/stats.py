"""What a feed has and does, in numbers: for metrics, for an inspector, for whoever is woken at night."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FeedStats:
    """One process's, at one moment. The totals count from the start of the application, and only grow."""

    at_seconds: float  # of a clock that only grows (time.monotonic)
    position: int  # of the last commit that was delivered
    lag_commits: int  # that are numbered, as far as this process knows, and not delivered
    lag_seconds: float  # since this process has been behind; 0.0 if it isn't
    connections: int
    connections_behind: int  # that read from the log, as they could not keep up
    subscriptions_live: Mapping[str, int]  # by stream
    subscriptions_on_their_way: Mapping[str, int]  # by stream; of those that fell behind, too
    waiting_bytes: int  # that wait in this process to be sent, of all connections
    commits_total: int  # published, whether or not anybody wanted them
    deliveries_total: int  # commits to connections, as they happened; not what was read for those who caught up
    failed_connections_total: int  # closed, as they could not be served for a fault of ours

    def rates_since(self, earlier: FeedStats) -> FeedRates:
        """Between two readings of one feed."""
        seconds = self.at_seconds - earlier.at_seconds
        if seconds <= 0:
            return FeedRates(0.0, 0.0)
        return FeedRates(
            (self.commits_total - earlier.commits_total) / seconds,
            (self.deliveries_total - earlier.deliveries_total) / seconds,
        )


@dataclass(frozen=True, slots=True)
class FeedRates:
    """For each second, on an average."""

    commits: float
    deliveries: float
