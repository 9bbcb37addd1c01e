"""What is told of how long things took."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def of_delays(delays_ms: Sequence[float]) -> dict[str, float]:
    """The figures of some hundred delays or more."""
    percentiles = statistics.quantiles(delays_ms, n=100)
    return {"p50_ms": percentiles[49], "p99_ms": percentiles[98], "max_ms": max(delays_ms)}
