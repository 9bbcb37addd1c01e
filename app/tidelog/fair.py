"""Places for a few of those who want one, shared fairly: each client's next one in its turn, however many it has."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager


class Claim:
    """One wish for a place, by a client; others may join in it, and it is served when the first of them is."""

    __slots__ = ("_clients", "_waiting")

    def __init__(self, client: Hashable) -> None:
        self._clients = {client}
        self._waiting: tuple[Fair, asyncio.Future[None]] | None = None

    def join(self, client: Hashable) -> None:
        """It is this client's wish, too."""
        if client not in self._clients:
            self._clients.add(client)
            if self._waiting is not None:
                fair, granted = self._waiting
                fair._line_up(client, granted)

    async def _wait(self, fair: Fair) -> None:
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting = fair, granted
        for client in self._clients:
            fair._line_up(client, granted)
        try:
            await granted
        except BaseException:
            if granted.done() and not granted.cancelled():  # in the same moment
                fair._free_one()
            raise
        finally:
            self._waiting = None


class Fair:
    """A semaphore whose waiting clients take turns; of one client who comes first is first."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._lines: OrderedDict[Hashable, deque[asyncio.Future[None]]] = OrderedDict()  # the next client's first

    @asynccontextmanager
    async def place(self, claim: Claim) -> AsyncIterator[None]:
        """One, when it is this claim's turn."""
        if self._free:
            self._free -= 1
        else:
            await claim._wait(self)
        try:
            yield
        finally:
            self._free_one()

    def _line_up(self, client: Hashable, granted: asyncio.Future[None]) -> None:
        self._lines.setdefault(client, deque()).append(granted)

    def _free_one(self) -> None:
        """The next one may have it. Those that have gone, or were served in another client's line, are passed over."""
        while self._lines:
            client, line = self._lines.popitem(last=False)
            while line:
                granted = line.popleft()
                if not granted.done():
                    if line:
                        self._lines[client] = line
                    granted.set_result(None)
                    return
        self._free += 1
