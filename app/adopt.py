"""What `scripts/adopt` runs: makes a log that was restored from another cluster's dump this cluster's own."""

from __future__ import annotations

import asyncio
import sys

from pydantic import ValidationError

from app.errors import TidelogError
from app.logs.redaction import Redaction
from app.logs.setup import configure
from app.settings import Settings
from app.store.adoption import Adoption, adopt
from app.store.embedded import EmbeddedPostgres
from app.store.engine import Database

DONE = """\
tidelog: the log is this cluster's own now.
  commits kept under their numbers       {commits:>12,}  with {changes:,} changes
  left unnumbered, numbered now          {leftover_commits:>12,}  with {leftover_changes:,} changes
  ephemeral events dropped               {events:>12,}
  new epoch {epoch}, after commit {head}
Numbering goes on by itself; no restart is needed. Every row of the log was rewritten: `vacuum analyze streams.change,
streams.commit` gives the space back.
"""


def main() -> None:
    """Adopt; ends the process with a message and status 1 if that can't be, or need not be."""
    redaction = Redaction()
    try:
        settings = Settings()
        redaction = Redaction.of_database(settings.database_url)
        configure(settings)
        print(DONE.format(**_adopt(settings)), end="")  # noqa: T201 - this is a command's output
    except (TidelogError, ValidationError, OSError) as error:
        code = f"{error.code}: " if isinstance(error, TidelogError) else ""
        sys.exit(f"tidelog: {code}{redaction.text(str(error))}")


def _adopt(settings: Settings) -> dict[str, object]:
    if settings.database_url is not None:
        return _as_dict(asyncio.run(adopt(Database.connector(settings.database_url))))
    embedded = EmbeddedPostgres(settings.data_dir)
    url = embedded.start()
    try:
        return _as_dict(asyncio.run(adopt(Database.connector(url))))
    finally:
        embedded.stop()


def _as_dict(done: Adoption) -> dict[str, object]:
    return {name: getattr(done, name) for name in Adoption.__slots__}


if __name__ == "__main__":
    main()
