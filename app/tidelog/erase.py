"""What `tidelog erase` runs: deletes an item or a group, and its content from the history."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidelog.errand import run
from tidelog.store.erasing import erase

if TYPE_CHECKING:
    from tidelog.settings import Settings
    from tidelog.store.connecting import Connector


def main(stream: str, group_id: str, id: str | None) -> None:
    """Erase; ends the process with a message and status 1 if that can't be."""

    async def errand(connect: Connector, _settings: Settings) -> int:
        return await erase(connect, stream, group_id, id)

    what = f"group {group_id!r} of stream {stream!r}" if id is None else f"item {id!r} of group {group_id!r}"
    count = run(errand)
    # Status 0 also if there was nothing: that nothing is there is what was wanted, and it may be asked for twice.
    told = f"erased, from {count:,} rows of the history" if count else f"there was nothing of {what} to be erased"
    print(f"tidelog: {told}.")  # noqa: T201 - this is a command's output
