"""What `tidelog adopt` runs: makes a log that was restored from another cluster's dump this cluster's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidelog.errand import run
from tidelog.store.adoption import Adoption, adopt

if TYPE_CHECKING:
    from tidelog.settings import Settings
    from tidelog.store.connecting import Connector

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
    done = run(_adopt)
    print(NOTHING if done is None else DONE.format(**_as_dict(done)), end="")  # noqa: T201 - this is a command's output


async def _adopt(connect: Connector, _settings: Settings) -> Adoption | None:
    return await adopt(connect)


def _as_dict(done: Adoption) -> dict[str, object]:
    return {name: getattr(done, name) for name in Adoption.__slots__}
