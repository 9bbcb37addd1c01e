"""What `tidelog migrate` runs: alembic, with the migrations that are installed with the library."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from alembic import command
from sqlalchemy import Connection

from tidelog.errors import NotSupportedError
from tidelog.model.stream import Stream
from tidelog.settings import Settings
from tidelog.store.revisions import alembic_config
from tidelog.store.url import GIVEN_BY


def upgrade(
    settings: Settings, streams: Iterable[Stream], accept: Collection[str] = (), database_given_by: str = GIVEN_BY
) -> None:
    """Bring the database of `settings` up to date, for these streams. Blocks, with an event loop of its own.

    A new schema that stored items don't fit is taken only for the streams that `accept` names.
    """
    config = alembic_config(
        settings=settings, streams=tuple(streams), accept=tuple(accept), database_given_by=database_given_by
    )
    command.upgrade(config, "head")


def upgrade_on(connection: Connection, streams: Iterable[Stream], accept: Collection[str] = ()) -> None:
    """The same on a connection of the caller's, in the transaction that it is in, if it is in one.

    For the end of an application's own alembic env.py: after its migrations, as alembic's context is then Tidelog's.
    Raises NotSupportedError if the connection is another driver's than asyncpg's.
    """
    if connection.dialect.driver != "asyncpg":
        raise NotSupportedError(
            f"streams are migrated on a connection of asyncpg, not of {connection.dialect.driver}: make its engine for "
            "postgresql+asyncpg://, or run `tidelog migrate`"
        )
    command.upgrade(alembic_config(connection=connection, streams=tuple(streams), accept=tuple(accept)), "head")


def main(*, sql: bool, accept: Collection[str] = ()) -> None:
    """Migrate; migrations/env.py ends the process with a line and status 1 if that can't be."""
    command.upgrade(alembic_config(accept=tuple(accept)), "head", sql=sql)
