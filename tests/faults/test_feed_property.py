"""Random writers, random faults, several real servers: every subscriber sees exactly the feed, and the feed is right.

When one fails, its history is saved, to be looked at and checked again: `python -m tests.faults.check FILE`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.faults.checker import check
from tests.faults.history import History
from tests.faults.postgres import own_postgres
from tests.faults.run import COMMITS_MIN, Plan, run_history
from tests.faults.variants import VARIANTS


@pytest.mark.timeout(600)
async def test_every_subscriber_sees_exactly_the_feed(postgres_url: str, seed: int) -> None:
    """Under kill -9 of servers and lost database connections: once each, in order, whole, as in the tables."""
    plan = Plan(seed, 10, VARIANTS["kills"])
    _judge(plan, await run_history(postgres_url, plan))


@pytest.mark.slow
@pytest.mark.timeout(800)
@pytest.mark.parametrize("name", sorted(VARIANTS))
async def test_every_subscriber_sees_exactly_the_feed_for_long(postgres_url: str, seed: int, name: str) -> None:
    """The same for longer, and under every kind of fault."""
    plan = Plan(seed, 25, VARIANTS[name])
    if plan.variant.needs_own_postgres:
        async with own_postgres() as postgres:
            history = await run_history(postgres.url, plan, postgres)
    else:
        history = await run_history(postgres_url, plan)
    _judge(plan, history)


def _judge(plan: Plan, history: History) -> None:
    problems = check(history)
    if problems:
        file = Path(tempfile.gettempdir()) / f"tidelog-history-{plan.seed}.json"
        history.save(file)
        pytest.fail(f"seed {plan.seed}; the history is in {file}\n" + "\n".join(map(str, problems)))
    # A run in which nothing happened would prove nothing.
    assert history.faults and len(history.commits) > COMMITS_MIN and history.frames > len(history.commits), plan
