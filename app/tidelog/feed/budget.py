"""What all snapshots of a process may take between them, of memory and of disk.

Who grows never waits, so no two can wait for each other: one that finds no room gives back all that it has, ends its
transaction, and waits in a line until there is room for what it needs. It knows nothing of snapshots.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from tidelog.errors import SnapshotTooLargeError, SubscriptionUnavailableError
from tidelog.logs.seldom import Seldom

logger = logging.getLogger("tidelog.subscriptions")

GROW_BY = 2  # times what was not enough, up to all there is: few tries, and most of what is waited for is used


class NoRoomError(Exception):
    """There is no room: give back what you have, and `wait`."""

    def __init__(self, resource: Resource, size: int) -> None:
        super().__init__(f"no room for {size} bytes")
        self._resource = resource
        self._size = size  # what was asked for, with what it had

    async def wait(self) -> Holding:
        """Have more than was not enough, reserved. Raises what Resource.wait does."""
        return await self._resource.wait(self._size)


class Resource:
    """So many bytes, for those who come in the order in which they come."""

    def __init__(self, name: str, size_max: int, patience_seconds: float, setting: str) -> None:
        self.name = name
        self._setting = setting
        self.size_max = size_max
        self.taken = 0
        self._patience_seconds = patience_seconds
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._seldom = Seldom()  # where groups are large and few fit, some wait many times a second

    @property
    def trouble(self) -> str | None:
        """What an operator should know, if somebody waits."""
        if not self._waiting:
            return None
        return f"full: {len(self._waiting)} snapshots wait for a part of its {self.size_max} bytes"

    def fits(self, size: int, *, is_new: bool) -> bool:
        """Whether there is room for so many more. Who is new may not overtake those who wait."""
        return self.taken + size <= self.size_max and not (is_new and self._waiting)

    async def wait(self, size: int) -> Holding:
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
        place = (size, granted)
        self._waiting.append(place)
        self._grant()
        try:
            async with asyncio.timeout(self._patience_seconds):
                await granted
        except BaseException as error:
            if place in self._waiting:
                self._waiting.remove(place)
            elif granted.done() and not granted.cancelled():
                self.taken -= size
            self._grant()
            if isinstance(error, TimeoutError):
                raise SubscriptionUnavailableError(
                    f"no room for a snapshot, as the server's {self.name} for them is full: subscribe again later"
                ) from None
            raise
        return Holding(self, size)

    def give_back(self, size: int) -> None:
        self.taken -= size
        self._grant()

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
        while self._waiting and (self._waiting[0][1].done() or self.fits(self._waiting[0][0], is_new=False)):
            size, granted = self._waiting.popleft()
            if not granted.done():
                self.taken += size
                granted.set_result(None)


class Holding:
    """What one snapshot has of a resource."""

    __slots__ = ("_reserved", "resource", "size")

    def __init__(self, resource: Resource, reserved: int = 0) -> None:
        self.resource = resource
        self._reserved = reserved
        self.size = 0

    def grow(self, size: int) -> None:
        """Take so many more. Raises NoRoomError."""
        if not self.try_grow(size):
            raise NoRoomError(self.resource, self.size + size)

    def try_grow(self, size: int) -> bool:
        """Take so many more, if there is room."""
        missing = self.size + size - self._reserved
        if missing > 0:
            if not self.resource.fits(missing, is_new=not self._reserved):
                return False
            self.resource.taken += missing
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
            self.resource.give_back(unused)

    def release(self) -> None:
        """Give all back; once is enough."""
        size, self.size, self._reserved = self._reserved, 0, 0
        if size:
            self.resource.give_back(size)


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
