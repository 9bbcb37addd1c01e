"""`scripts/faults`: histories one after the other until the time is up, a line for each."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections import Counter
from itertools import count, cycle
from pathlib import Path

from tests.faults.checker import check
from tests.faults.history import History
from tests.faults.postgres import OwnPostgres, own_postgres
from tests.faults.run import Plan, run_history
from tests.faults.variants import VARIANTS
from tests.harness import libpq_url

DESCRIPTION = """
Runs random writers, subscribers and faults against real servers, and checks everything that was recorded.
Uses the server of TIDELOG_DATABASE_URL (databases of its own there), or else an embedded one of its own,
which some variants kill.
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/faults", description=DESCRIPTION)
    parser.add_argument("--minutes", type=float, default=5, help="how long to go on (the last history is finished)")
    parser.add_argument("--seconds", type=float, default=20, help="how long each history is")
    parser.add_argument("--seed", type=int, default=None, help="the first history's; the next has the next")
    parser.add_argument("--variant", choices=VARIANTS, action="append", help="instead of one after the other")
    arguments = parser.parse_args()
    given = os.environ.get("TIDELOG_DATABASE_URL")
    usual = list(VARIANTS)
    names = arguments.variant or [name for name in usual if not given or not VARIANTS[name].needs_own_postgres]
    seed = time.time_ns() % 1_000_000 if arguments.seed is None else arguments.seed
    sys.exit(asyncio.run(_run(given, names, seed, arguments.seconds, time.monotonic() + 60 * arguments.minutes)))


async def _run(given: str | None, names: list[str], seed: int, seconds: float, end: float) -> int:
    """How many histories failed."""
    if given:
        return await _run_on(libpq_url(given), None, names, seed, seconds, end)
    async with own_postgres() as postgres:
        return await _run_on(postgres.url, postgres, names, seed, seconds, end)


async def _run_on(
    url: str, postgres: OwnPostgres | None, names: list[str], seed: int, seconds: float, end: float
) -> int:
    failed = 0
    for name, number in zip(cycle(names), count(seed), strict=False):
        history = await run_history(url, Plan(number, seconds, VARIANTS[name]), postgres)
        failed += not _report(name, history)
        if time.monotonic() >= end:
            break
    return failed


def _report(name: str, history: History) -> bool:
    """Print what happened; whether all was right."""
    problems = check(history)
    faults = ", ".join(f"{times} x {fault}" for fault, times in sorted(Counter(f[1] for f in history.faults).items()))
    print(  # noqa: T201 - a command's output
        f"seed {history.seed}, {name}: {len(history.faults)} faults ({faults}), {len(history.commits)} commits, "
        f"{history.frames} frames to {len(history.subscribers)} subscribers on {history.connections} connections, "
        f"longest wait for a number {history.longest_wait_seconds:.1f} s: "
        f"{'FAILED' if problems else 'all as promised'}",
        flush=True,
    )
    if problems:
        file = Path(tempfile.gettempdir()) / f"tidelog-history-{name}-{history.seed}.json"
        history.save(file)
        print(f"  the history is in {file}: python -m tests.faults.check {file}")  # noqa: T201
        for problem in problems:
            print(f"  {problem}")  # noqa: T201
    return not problems


if __name__ == "__main__":
    main()
