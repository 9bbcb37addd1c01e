"""What a subscription hands out, and how it is made from the server's frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

Frame = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Item:
    """An item as of a snapshot. `data` carries its id, too."""

    id: str
    version: int
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """The net effect of a commit on an item. `data` is the item; of a delete, the item as it was."""

    op: Literal["create", "update", "delete"]
    stream: str
    group: str
    id: str
    version: int
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Items as of `position`; large groups come in several pages, all but the last with `more`.

    What was handed out is complete when `more` is false. A missing item's snapshot has no items.
    """

    position: int
    items: tuple[Item, ...]
    more: bool
    epoch: str


@dataclass(frozen=True, slots=True)
class Commit:
    """What one commit changed in the subscription's group or item: all of it, never a part."""

    position: int
    at: datetime
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Event:
    """An ephemeral message to the group's subscribers, or (with `id`) about an item. It is never repeated."""

    position: int
    type: str
    data: Any
    id: str | None


@dataclass(frozen=True, slots=True)
class Live:
    """Everything up to `position` was handed out; what follows comes as it happens."""

    position: int
    epoch: str


@dataclass(frozen=True, slots=True)
class Reset:
    """Forget the items that you have: a snapshot follows.

    The server's reasons are "too_old", "epoch", "ahead", "too_large" and "unreadable"; "connection_lost" is
    the client's own, when a snapshot was broken off between its pages.
    """

    reason: str


Message = Snapshot | Commit | Event | Live | Reset


def snapshot(frame: Frame) -> Snapshot:
    items = tuple(Item(item["id"], item["version"], item["data"]) for item in frame["items"])
    return Snapshot(frame["position"], items, frame["more"], frame["epoch"])


def commit(frame: Frame, stream: str, group: str, item: str | None) -> Commit:
    """The part of a commit that concerns a group, or one item of it."""
    changes = tuple(
        Change(one["op"], stream, group, one["id"], one["version"], one["data"])
        for one in frame["changes"]
        if one["stream"] == stream and one["group"] == group and item in (None, one["id"])
    )
    return Commit(frame["position"], datetime.fromisoformat(frame["at"]), changes)


def event(frame: Frame) -> Event:
    return Event(frame["position"], frame["event"]["type"], frame["event"]["data"], frame.get("id"))
