"""What `tidelog erase` runs: deletes an item or a group, and its content from the history."""

from __future__ import annotations

import asyncio
import sys
from functools import partial

from tidelog.logs.last_words import TOLD, last_words
from tidelog.logs.redaction import Redaction
from tidelog.logs.setup import configure
from tidelog.postgres.optional import embedded_postgres
from tidelog.settings import Settings
from tidelog.store.connecting import first_connection
from tidelog.store.erasing import erase


def main(stream: str, group_id: str, id: str | None) -> None:
    """Erase; ends the process with a message and status 1 if that can't be."""
    redaction = Redaction()
    try:
        settings = Settings()
        redaction = Redaction.of_database(settings.database_url)
        configure(settings)
        erased = _erase(settings, stream, group_id, id)
    except TOLD as error:
        sys.exit(last_words(error, redaction))
    print(f"tidelog: erased, from {erased:,} rows of the history.")  # noqa: T201 - this is a command's output


def _erase(settings: Settings, stream: str, group_id: str, id: str | None) -> int:
    if settings.database_url is not None:
        return asyncio.run(erase(partial(first_connection, settings.database_url), stream, group_id, id))
    embedded = embedded_postgres(settings.data_dir)
    url = embedded.start()
    try:
        return asyncio.run(erase(partial(first_connection, url), stream, group_id, id))
    finally:
        embedded.stop()
