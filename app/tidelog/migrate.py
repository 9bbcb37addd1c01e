"""What `tidelog migrate` runs: alembic, with the migrations that are installed with the library."""

from __future__ import annotations

from alembic import command

from tidelog.store.revisions import alembic_config


def main(*, sql: bool) -> None:
    """Migrate; migrations/env.py ends the process with a line and status 1 if that can't be."""
    command.upgrade(alembic_config(), "head", sql=sql)
