"""What all snapshots of a process may take between them, of memory and of disk.

Who grows never waits, so no two can wait for each other: one that finds no room gives back all that it has, ends its
transaction, and waits in a line until there is room for what it needs. It knows nothing of snapshots.

All snapshots of one client have half of it, but for its first one, which may have more: so a client that takes its own
slowly, or takes very many, leaves room for the others.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Hashable
from typing import NamedTuple

from tidelog.errors import SnapshotTooLargeError, SubscriptionUnavailableError
from tidelog.logs.seldom import Seldom

logger = logging.getLogger("tidelog.subscriptions")

SHARE = 2  # the part of all that one client may have: 1 / SHARE
GROW_BY = 2  # times what was not enough, up to all there is: few tries, and most of what is waited for is used


class NoRoomError(Exception):
    """There is no room: give back what you have, and `wait`."""

    def __init__(self, resource: Resource, client: Hashable, size: int) -> None:
        super().__init__(f"no room for {size} bytes")
        self._client = client
        self._resource = resource
        self._size = size  # what was asked for, with what it had

    async def wait(self) -> Holding:
        """Have more than was not enough, reserved. Raises what Resource.wait does."""
        return await self._resource.wait(self._client, self._size)


class Resource:
    """So many bytes, for those who come in the order in which they come."""

    def __init__(self, name: str, size_max: int, patience_seconds: float, setting: str) -> None:
        self.name = name
        self._setting = setting
        self.size_max = size_max
        self.taken = 0
        self._patience_seconds = patience_seconds
        self._of: dict[Hashable, int] = {}  # what each client has
        self._waiting: deque[_Waiting] = deque()
        self._seldom = Seldom()  # where groups are large and few fit, some wait many times a second

    @property
    def trouble(self) -> str | None:
        """What an operator should know, if somebody waits."""
        if not self._waiting:
            return None
        return f"full: {len(self._waiting)} snapshots wait for a part of its {self.size_max} bytes"

    def fits(self, client: Hashable, size: int, *, beside: int) -> bool:
        """Whether there is room for so many more, `beside` what one snapshot has of it.

        One that has nothing may not overtake those who wait, unless they wait for what is their own.
        """
        if self.taken + size > self.size_max or not self._may_have(client, size, beside):
            return False
        return beside > 0 or not any(self._may_have(one.client, one.size, 0) for one in self._waiting)

    def take(self, client: Hashable, size: int) -> None:
        self.taken += size
        self._of[client] = self._of.get(client, 0) + size

    async def wait(self, client: Hashable, size: int) -> Holding:
        """Have twice as much as was not enough, reserved.

        Raises SubscriptionUnavailableError if it takes too long, SnapshotTooLargeError if there is not so much at all.
        """
        if size > self.size_max:
            raise SnapshotTooLargeError(
                f"the group takes over {self.size_max} bytes of {self.name}: subscribe to single items, or raise "
                f"{self._setting}"
            )
        size = min(GROW_BY * size, self.size_max)
        self._tell()
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place = _Waiting(client, size, granted)
        self._waiting.append(place)
        self._grant()
        try:
            async with asyncio.timeout(self._patience_seconds):
                await granted
        except BaseException as error:
            if place in self._waiting:
                self._waiting.remove(place)
            elif granted.done() and not granted.cancelled():
                self.give_back(client, size)
            self._grant()
            if isinstance(error, TimeoutError):
                raise SubscriptionUnavailableError(
                    f"no room for a snapshot, as the server's {self.name} for them is full: subscribe again later"
                ) from None
            raise
        return Holding(self, client, size)

    def give_back(self, client: Hashable, size: int) -> None:
        self.taken -= size
        self._of[client] -= size
        if not self._of[client]:
            del self._of[client]
        self._grant()

    def _may_have(self, client: Hashable, size: int, beside: int) -> bool:
        """Whether this client's share allows it; its only snapshot may have all."""
        has = self._of.get(client, 0)
        return has == beside or has + size <= self.size_max // SHARE

    def _tell(self) -> None:
        """Somebody is about to wait."""
        if self._seldom.is_news():
            logger.warning(
                "the %s that snapshots may take is full (%d bytes): some wait (told once a minute; the bound is %s)",
                self.name,
                self.size_max,
                self._setting,
            )

    def _grant(self) -> None:
        for place in list(self._waiting):
            if place.granted.done():
                self._waiting.remove(place)
            elif not self._may_have(place.client, place.size, 0):
                continue  # until it has less: that is nobody else's concern
            elif self.taken + place.size > self.size_max:
                break
            else:
                self._waiting.remove(place)
                self.take(place.client, place.size)
                place.granted.set_result(None)


class _Waiting(NamedTuple):
    client: Hashable
    size: int
    granted: asyncio.Future[None]


class Holding:
    """What one snapshot has of a resource."""

    __slots__ = ("_client", "_reserved", "resource", "size")

    def __init__(self, resource: Resource, client: Hashable, reserved: int = 0) -> None:
        self.resource = resource
        self._client = client
        self._reserved = reserved
        self.size = 0

    def grow(self, size: int) -> None:
        """Take so many more. Raises NoRoomError."""
        if not self.try_grow(size):
            raise NoRoomError(self.resource, self._client, self.size + size)

    def try_grow(self, size: int) -> bool:
        """Take so many more, if there is room."""
        missing = self.size + size - self._reserved
        if missing > 0:
            if not self.resource.fits(self._client, missing, beside=self._reserved):
                return False
            self.resource.take(self._client, missing)
            self._reserved += missing
        self.size += size
        return True

    def begin_again(self) -> None:
        """Nothing is in it any more, but what there was room for stays reserved: nobody gets between."""
        self.size = 0

    def settle(self) -> None:
        """It doesn't grow any more: give back what was reserved for that."""
        unused, self._reserved = self._reserved - self.size, self.size
        if unused:
            self.resource.give_back(self._client, unused)

    def release(self) -> None:
        """Give all back; once is enough."""
        size, self.size, self._reserved = self._reserved, 0, 0
        if size:
            self.resource.give_back(self._client, size)


class Budget:
    """A process's."""

    def __init__(self, memory_max_bytes: int, disk_max_bytes: int, patience_seconds: float) -> None:
        self.memory = Resource("memory", memory_max_bytes, patience_seconds, "TIDELOG_SNAPSHOT_MEMORY_MAX_BYTES")
        self.disk = Resource("disk", disk_max_bytes, patience_seconds, "TIDELOG_SNAPSHOT_DISK_MAX_BYTES")

    @property
    def troubles(self) -> dict[str, str]:
        """What an operator should know, by names for readiness."""
        resources = {"snapshot memory": self.memory, "snapshot disk": self.disk}
        return {name: resource.trouble for name, resource in resources.items() if resource.trouble}
