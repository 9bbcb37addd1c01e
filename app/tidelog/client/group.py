"""The state of a group, kept from a subscription's messages."""

from __future__ import annotations

from typing import Any

from tidelog.client.messages import Commit, Item, Message, Reset, Snapshot


class GroupState:
    """`items` by id, in the order of their creation; always as of a commit, never half a snapshot."""

    def __init__(self) -> None:
        self.items: dict[str, dict[str, Any]] = {}
        self.has_changed = False
        self._pages: list[Item] = []

    def apply(self, message: Message) -> None:
        match message:
            case Reset():
                self._pages.clear()
            case Snapshot(items=items, more=more):
                self._pages.extend(items)
                if not more:
                    self.items.clear()
                    self.items.update((item.id, item.data) for item in self._pages)
                    self._pages.clear()
                    self.has_changed = True
            case Commit(changes=changes):
                for change in changes:
                    if change.op == "delete":
                        self.items.pop(change.id, None)
                    else:
                        self.items[change.id] = change.data
                self.has_changed = True
