"""What a command of `tidelog` does on the database of the settings: the embedded one, if there is no URL."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from tidelog.logs.last_words import TOLD, last_words
from tidelog.logs.redaction import Redaction
from tidelog.logs.setup import configure
from tidelog.postgres.optional import embedded_postgres
from tidelog.settings import Settings
from tidelog.store.connecting import first_connection

if TYPE_CHECKING:
    from tidelog.store.connecting import Connector

Answer = TypeVar("Answer")
Errand = Callable[["Connector", Settings], Awaitable[Answer]]


def run(errand: Errand[Answer]) -> Answer:
    """What the errand answers; ends the process with a message and status 1 if it can't be done."""
    redaction = Redaction()
    try:
        settings = Settings()
        redaction = Redaction.of_database(settings.database_url)
        configure(settings)
        return _run(errand, settings)
    except TOLD as error:
        sys.exit(last_words(error, redaction))


def _run(errand: Errand[Answer], settings: Settings) -> Answer:
    async def on(url: str) -> Answer:
        return await errand(partial(first_connection, url), settings)

    if settings.database_url is not None:
        return asyncio.run(on(settings.database_url))
    embedded = embedded_postgres(settings.data_dir)
    url = embedded.start()
    try:
        return asyncio.run(on(url))
    finally:
        embedded.stop()
