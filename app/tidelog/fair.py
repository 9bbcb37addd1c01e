"""Places for a few of those who want one, shared fairly: each client's next one in its turn, however many it has."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager


class Claim:
    """One wish for a place, by a client; others may join in it, and it is served when the first of them is."""

    __slots__ = ("_waiting", "clients")

    def __init__(self, client: Hashable) -> None:
        self.clients = {client}
        self._waiting: tuple[Fair, asyncio.Future[Hashable]] | None = None

    def join(self, client: Hashable) -> None:
        """It is this client's wish, too."""
        if client not in self.clients:
            self.clients.add(client)
            if self._waiting is not None:
                fair, granted = self._waiting
                fair._line_up(client, granted)
                fair._serve()

    async def _wait(self, fair: Fair) -> Hashable:
        """Returns in whose turn it was."""
        granted: asyncio.Future[Hashable] = asyncio.get_running_loop().create_future()
        self._waiting = fair, granted
        for client in self.clients:
            fair._line_up(client, granted)
        try:
            return await granted
        except BaseException:
            if granted.done() and not granted.cancelled():  # in the same moment
                fair._leave(granted.result())
            raise
        finally:
            self._waiting = None


class Fair:
    """A semaphore whose waiting clients take turns; of one client who comes first is first."""

    def __init__(self, places: int, *, of_one_max: int | None = None) -> None:
        """`of_one_max`: how many one client may have, though others are free: what is left is there for the next."""
        self._free = places
        self._of_one_max = of_one_max or places
        self._busy: dict[Hashable, int] = {}  # places, by whose turn it was
        self._lines: OrderedDict[Hashable, deque[asyncio.Future[Hashable]]] = OrderedDict()  # the next client's first

    @asynccontextmanager
    async def place(self, claim: Claim) -> AsyncIterator[None]:
        """One, when it is this claim's turn."""
        client = next((one for one in claim.clients if self._free and self._may_have(one)), None)
        if client is not None:
            self._take(client)
        else:
            client = await claim._wait(self)
        try:
            yield
        finally:
            self._leave(client)

    def _may_have(self, client: Hashable) -> bool:
        return self._busy.get(client, 0) < self._of_one_max

    def _take(self, client: Hashable) -> None:
        self._free -= 1
        self._busy[client] = self._busy.get(client, 0) + 1

    def _leave(self, client: Hashable) -> None:
        self._free += 1
        self._busy[client] -= 1
        if not self._busy[client]:
            del self._busy[client]
        self._serve()

    def _line_up(self, client: Hashable, granted: asyncio.Future[Hashable]) -> None:
        self._lines.setdefault(client, deque()).append(granted)

    def _serve(self) -> None:
        """Give what is free to those who wait. Those that have gone, or had another client's turn, are passed over."""
        passed = 0
        while self._free and passed < len(self._lines):
            client, line = self._lines.popitem(last=False)
            while line and line[0].done():
                line.popleft()
            if not line:
                continue
            if self._may_have(client):
                self._take(client)
                line.popleft().set_result(client)
            else:
                passed += 1
            if line:
                self._lines[client] = line
