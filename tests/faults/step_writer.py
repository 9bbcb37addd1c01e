"""A writer that posts to steps, on any server that answers; sometimes it hangs up in the middle."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from random import Random
from typing import Any, Literal

import httpx

from tests.faults.history import Effect, Transaction
from tests.faults.plan import Stamps, draw_data, draw_key
from tests.faults.recorder import Place

REQUEST_TIMEOUT_SECONDS = 15.0
HANG_UP_SECONDS = (0.001, 0.03)

Outcome = Literal["committed", "rolled back", "unknown"]


class StepWriter:
    """One request after the other. `transactions` tells what it did, `trouble` the answers that it can't explain."""

    def __init__(self, name: str, places: Sequence[Place], random: Random, *, pause_seconds: float) -> None:
        self.transactions: list[Transaction] = []
        self.trouble: list[str] = []
        self._name = name
        self._places = places
        self._random = random
        self._pause_seconds = pause_seconds
        self._stamps = Stamps(name)

    async def run(self, stop: asyncio.Event) -> None:
        """Post until `stop`."""
        async with httpx.AsyncClient(timeout=REQUEST_TIMEOUT_SECONDS, trust_env=False) as http:
            while not stop.is_set():
                url = f"http://{self._random.choice(self._places).address}"
                if self._random.random() < 0.2:
                    await self._write_each(http, url)
                else:
                    await self._write(http, url)
                await asyncio.sleep(self._random.expovariate(1 / self._pause_seconds))

    async def _write(self, http: httpx.AsyncClient, url: str) -> None:
        # A set comes first: its stamp shows whether it was committed when no answer comes.
        kinds = ["set", *self._random.choices(("set", "delete", "event"), (6, 2, 3), k=self._random.randrange(4))]
        plan = [self._action(kind) for kind in kinds]
        fail = self._random.random() < 0.1
        planned = [Effect(kind, stream, group, id, (data or {}).get("stamp")) for kind, stream, group, id, data in plan]
        outcome, answer = await self._post(http, f"{url}/write", {"plan": plan, "fail": fail})
        if answer is not None and answer.status_code == 200:
            done = answer.json()
            self._note(done["xid"], outcome, [Effect(*effect) for effect in done["effects"]])
        else:
            was_refused = fail and answer is not None and answer.status_code == 400
            self._note(None, "rolled back" if was_refused else outcome, planned)

    async def _write_each(self, http: httpx.AsyncClient, url: str) -> None:
        plan = [self._action("set") for _ in range(self._random.choice((1, 3, 10)))]
        outcome, _ = await self._post(http, f"{url}/write-each", {"plan": plan})
        for _, stream, group, id, data in plan:
            effect = Effect("set", stream, group, id, data["stamp"])
            # Those before the one that failed are committed.
            self._note(None, "committed" if outcome == "committed" else "unknown", [effect])

    def _action(self, kind: str) -> list[Any]:
        stream, group, id = draw_key(self._random)
        if kind == "delete":
            return [kind, stream, group, id, None]
        channel_id = None if kind == "event" and self._random.random() < 0.5 else id
        return [kind, stream, group, channel_id, draw_data(self._random, self._stamps.next())]

    async def _post(
        self, http: httpx.AsyncClient, url: str, body: dict[str, Any]
    ) -> tuple[Outcome, httpx.Response | None]:
        """What became of it, and the answer if one came."""
        patience = self._random.uniform(*HANG_UP_SECONDS) if self._random.random() < 0.05 else None
        try:
            async with asyncio.timeout(patience):
                answer = await http.post(url, json=body)
        except httpx.ConnectError:
            return "rolled back", None
        except (httpx.TransportError, TimeoutError):
            return "unknown", None
        if answer.status_code == 200:
            return "committed", answer
        if '"commit_unknown"' in answer.text:
            return "unknown", answer
        if answer.status_code != 503 and not (answer.status_code == 400 and body.get("fail")):
            self.trouble.append(f"POST {url} answered {answer.status_code}: {answer.text:.500}")
            return "unknown", answer
        return "rolled back", answer

    def _note(self, xid: int | None, outcome: Outcome, effects: list[Effect]) -> None:
        at = time.monotonic_ns() if outcome == "committed" else None
        self.transactions.append(Transaction(self._name, xid, outcome, at, effects))
