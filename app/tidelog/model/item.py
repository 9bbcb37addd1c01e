"""An item as it is handed to programs: its JSON object, which knows where it is stored."""

from __future__ import annotations

from datetime import datetime
from typing import Any

KEY_LENGTH_MAX_BYTES = 1024  # of a group's id, or an item's: both fit in a btree entry (2704 bytes)


class Item(dict[str, Any]):
    """A dict, and to JSON nothing else; beside it `stream`, `group_id`, `version` and `created_at`, no part of it.

    A copy (`{**item}`, `dict(item)`) is a plain dict. `version` counts the item's changes since it was created.
    """

    __slots__ = ("created_at", "group_id", "stream", "version")

    def __init__(self, fields: dict[str, Any], stream: str, group_id: str, version: int, created_at: datetime) -> None:
        super().__init__(fields)
        self.stream = stream
        self.group_id = group_id
        self.version = version
        self.created_at = created_at
