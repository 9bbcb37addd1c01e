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

    print(f"tidelog: erased, from {run(errand):,} rows of the history.")  # noqa: T201 - this is a command's output
