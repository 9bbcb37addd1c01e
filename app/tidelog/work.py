"""What `tidelog work` runs: workers for event, cron, stream and state steps, without a server."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Collection, Sequence

from tidelog.composition import Tidelog
from tidelog.errors import TopicUnknownError
from tidelog.logs.last_words import TOLD, last_words
from tidelog.logs.redaction import Redaction
from tidelog.logs.setup import configure
from tidelog.model.step import reacting
from tidelog.runtime.discovery import discover
from tidelog.runtime.emitting import topics_of
from tidelog.settings import Settings

logger = logging.getLogger("tidelog.work")


def main(topics: Collection[str] | None) -> None:
    """Work until stopped; ends the process with a message and status 1 if it can't begin. None: for all topics."""
    redaction = Redaction()
    try:
        settings = Settings()
        redaction = Redaction.of_database(settings.database_url)
        configure(settings)
        asyncio.run(_work(settings, topics))
    except TOLD as error:
        sys.exit(last_words(error, redaction))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


async def _work(settings: Settings, topics: Collection[str] | None) -> None:
    discovered = discover(settings.steps_dir)
    for broken in discovered.broken:
        logger.error("left out %s: %s", broken.path, broken.cause)
    if not reacting(discovered.steps):
        sys.exit(f"tidelog: there is no event, cron, stream or state step in {settings.steps_dir}")
    if topics is not None:
        _check_topics(topics, list(topics_of(discovered.steps)))
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with Tidelog(settings, discovered).working(topics) as steps:
        print(f"Tidelog works for {', '.join(steps)}", flush=True)  # noqa: T201
        await stopped.wait()


def _check_topics(topics: Collection[str], known: Sequence[str]) -> None:
    """Raises TopicUnknownError if there would be nothing to do."""
    unknown = [TopicUnknownError(topic, known) for topic in sorted(topics) if topic not in known]
    if len(unknown) == len(topics):
        raise unknown[0]
    for error in unknown:
        logger.warning("%s", error)
