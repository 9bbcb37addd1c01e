"""What snapshots may take between them: a client has a share, and leaves the rest to the others."""

from __future__ import annotations

import asyncio

import pytest

from tidelog.errors import SnapshotTooLargeError
from tidelog.feed.budget import Holding, NoRoomError, Resource


def resource() -> Resource:
    return Resource("disk", 100, 60.0, "TIDELOG_SNAPSHOT_DISK_MAX_BYTES")


def holding(of: Resource, client: str, size: int) -> Holding:
    one = Holding(of, client)
    one.grow(size)
    return one


def test_the_snapshots_of_one_client_have_half_and_its_only_one_may_have_all() -> None:
    """So that a single user isn't worse off; what is given back may be had again."""
    disk = resource()
    only = holding(disk, "greedy", 90)
    only.release()
    first = holding(disk, "greedy", 40)
    with pytest.raises(NoRoomError):
        holding(disk, "greedy", 20)
    holding(disk, "polite", 60)
    first.release()
    holding(disk, "greedy", 40)
    assert disk.taken == 100 and disk._of == {"greedy": 40, "polite": 60}


async def test_who_waits_for_its_own_share_keeps_nobody_else_waiting() -> None:
    """Also not those who come later; it goes on when it has given back some."""
    disk = resource()
    slow = [holding(disk, "greedy", 25), holding(disk, "greedy", 25)]
    with pytest.raises(NoRoomError) as lacking:
        holding(disk, "greedy", 10)
    waiting = asyncio.create_task(lacking.value.wait())
    await asyncio.sleep(0)
    assert not waiting.done() and disk.trouble is not None
    polite = holding(disk, "polite", 45)
    slow[0].release()
    (await waiting).release()
    polite.release()
    slow[1].release()
    assert (disk.taken, disk._of, disk.trouble) == (0, {}, None)


async def test_who_waits_for_room_is_not_overtaken_by_who_has_none() -> None:
    """As before: small ones would keep a large one out for ever."""
    disk = resource()
    first = holding(disk, "a", 80)
    with pytest.raises(NoRoomError) as lacking:
        holding(disk, "b", 30)
    waiting = asyncio.create_task(lacking.value.wait())
    await asyncio.sleep(0)
    with pytest.raises(NoRoomError):
        holding(disk, "c", 5)
    first.grow(5)
    first.release()
    assert (await waiting).resource is disk
    with pytest.raises(SnapshotTooLargeError):
        await NoRoomError(disk, "a", 101).wait()
