"""What `tidelog adopt` runs: makes a log that was restored from another cluster's dump this cluster's own."""

from __future__ import annotations

import asyncio
import sys
from functools import partial

from tidelog.logs.last_words import TOLD, last_words
from tidelog.logs.redaction import Redaction
from tidelog.logs.setup import configure
from tidelog.postgres.optional import embedded_postgres
from tidelog.settings import Settings
from tidelog.store.adoption import Adoption, adopt
from tidelog.store.connecting import first_connection

DONE = """\
tidelog: the log is this cluster's own now.
  commits kept under their numbers, up to {kept:>11,}
  left unnumbered, numbered now          {leftover_commits:>12,}  with {leftover_changes:,} changes
  ephemeral events dropped               {events:>12,}
  new epoch {epoch}, after commit {kept}
Numbering goes on by itself; no restart is needed.
"""


NOTHING = """\
tidelog: the log of this database was written in this cluster: there is nothing to do.
"""


def main() -> None:
    """Adopt, if there is something to; ends the process with a message and status 1 if that can't be."""
    redaction = Redaction()
    try:
        settings = Settings()
        redaction = Redaction.of_database(settings.database_url)
        configure(settings)
        done = _adopt(settings)
    except TOLD as error:
        sys.exit(last_words(error, redaction))
    print(NOTHING if done is None else DONE.format(**_as_dict(done)), end="")  # noqa: T201 - this is a command's output


def _adopt(settings: Settings) -> Adoption | None:
    if settings.database_url is not None:
        return asyncio.run(adopt(partial(first_connection, settings.database_url)))
    embedded = embedded_postgres(settings.data_dir)
    url = embedded.start()
    try:
        return asyncio.run(adopt(partial(first_connection, url)))
    finally:
        embedded.stop()


def _as_dict(done: Adoption) -> dict[str, object]:
    return {name: getattr(done, name) for name in Adoption.__slots__}
