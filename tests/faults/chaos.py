"""Does faults one after the other, drawn at random, and mends afterwards what does not mend itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from random import Random

import asyncpg

from tests.faults.faults import FAULTS, Scene
from tests.faults.fleet import Fleet
from tests.faults.history import Transaction
from tests.faults.postgres import OwnPostgres
from tests.faults.sql_writer import CONNECTION_LOST

PAUSE_SECONDS = (0.2, 2.0)  # between two faults
DATABASE_AWAY = (*CONNECTION_LOST, asyncpg.PostgresError)


class Chaos:
    """`run` it beside the writers; `done` tells which faults there were."""

    def __init__(self, fleet: Fleet, postgres: OwnPostgres | None, faults: Sequence[str], random: Random) -> None:
        self.done: list[tuple[int, str, str]] = []  # when, which, to whom
        self.transactions: list[Transaction] = []  # it makes none
        self.trouble: list[str] = []
        self._random = random
        self._faults = list(faults)
        self._mending: set[asyncio.Task[None]] = set()
        self._scene = Scene(fleet, postgres, random, self._later)

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; when this returns, everything is mended and every process is up again."""
        while not stop.is_set() and self._faults:
            await asyncio.sleep(self._random.uniform(*PAUSE_SECONDS))
            fault = self._random.choice(self._faults)
            at = time.monotonic_ns()
            try:
                whom = await FAULTS[fault](self._scene)
            except DATABASE_AWAY:
                continue  # another fault's doing
            if whom is not None:
                self.done.append((at, fault, whom))
        while self._mending:
            await asyncio.gather(*self._mending)

    def _later(self, mend: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(mend)
        self._mending.add(task)
        task.add_done_callback(self._mending.discard)
