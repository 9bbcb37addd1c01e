"""When cron steps run: once per tick in the whole cluster, by the database's clock.

Ticks that were missed, as no worker ran, are one run, at once. So are those that come while the job of one before still
waits; one that runs is not run beside.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any

from cronsim import CronSim

from tidelog.logs.request import new_trace_id
from tidelog.model.reaction import CRON_TOPIC, CronTrigger
from tidelog.model.step import Step
from tidelog.store import jobs

if TYPE_CHECKING:
    import asyncpg

NEVER = float("inf")
WAIT_MIN_SECONDS = 0.1  # whatever a table of time zones says, this is no loop without a rest


class Schedule:
    """The cron steps of one process, on the connection of its workers."""

    def __init__(self, steps: Iterable[Step], zone: tzinfo) -> None:
        self._expressions = {
            step.name: step.reaction.expression for step in steps if isinstance(step.reaction, CronTrigger)
        }
        self._zone = zone

    async def register(self, connection: asyncpg.Connection[Any]) -> None:
        """Keep in the database what there is; a step that is new, or has a new time, begins now."""
        if self._expressions:
            await connection.execute(jobs.KEEP_CRON, list(self._expressions), list(self._expressions.values()))

    async def fire(self, connection: asyncpg.Connection[Any]) -> float:
        """Make the jobs of ticks that are due; answers in how many seconds the next one is."""
        if not self._expressions:
            return NEVER
        waits = [NEVER]
        for step, last_at, now in await connection.fetch(jobs.CRON, list(self._expressions)):
            now = now.astimezone(self._zone)
            tick = last_tick(self._expressions[step], now)
            if tick is not None and tick > last_at:
                await connection.execute(jobs.PUT_TICK, step, tick, CRON_TOPIC, new_trace_id())
            waits.append(seconds_until_next(self._expressions[step], now))
        return min(waits)


def seconds_until_next(expression: str, now: datetime) -> float:
    """From `now` to the next tick, by a clock that nobody sets forward or back."""
    # Not their difference: of two times of one zone that is the wall clock's.
    return max(next_tick(expression, now).timestamp() - now.timestamp(), WAIT_MIN_SECONDS)


def next_tick(expression: str, now: datetime) -> datetime:
    """The first tick after `now`."""
    return next(CronSim(expression, now))


def last_tick(expression: str, now: datetime) -> datetime | None:
    """The last tick up to `now`; None if there was none in the last decades."""
    # Backwards it begins before the time that it is given, unless that is within a second.
    within = now if now.microsecond else now + timedelta(microseconds=1)
    return next(CronSim(expression, within, reverse=True), None)
