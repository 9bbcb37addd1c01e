"""Runs migrations: the core's revisions, then a table for each declared stream that has none yet.

`alembic upgrade head` is safe to repeat and to run twice at once; it never drops or rewrites a stream's data.
"""

import asyncio
import logging
import sys
from collections.abc import Iterable, Sequence
from functools import partial

import asyncpg
from alembic import context
from sqlalchemy import Connection, pool
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from tidelog.errors import DatabaseUnreachableError, DeclarationError, GrantMissingError, MigrationFailedError
from tidelog.logs.last_words import TOLD, last_words
from tidelog.logs.setup import configure
from tidelog.model.stream import Stream
from tidelog.postgres.optional import embedded_postgres
from tidelog.runtime.discovery import discover
from tidelog.settings import Settings
from tidelog.store.connecting import connector, first_connected
from tidelog.store.failure import CONNECTION_ERRORS, is_lost, is_passing
from tidelog.store.indexes import indexes_sql, indexes_to_make, make_indexes, note_indexes, notes_sql
from tidelog.store.log import LIFT_TRANSACTION_TIMEOUT
from tidelog.store.migration_lock import MIGRATION_SETTINGS, lock_versions, take_migration_lock
from tidelog.store.requirements import check_not_newer, check_server
from tidelog.store.stream_tables import Declared, declaration_sql, declare_streams, refuse_troubles
from tidelog.store.undeclared import warn_of_undeclared
from tidelog.store.url import GIVEN_BY

GRANT_ROLES = "select streams.grant_roles()"
GRANT_TIME_TRAVEL = "select streams.grant_time_travel()"
GRANT_STATE = "select streams.grant_state()"
GRANT_JOBS = "select streams.grant_jobs()"

logger = logging.getLogger("tidelog.migrations")


def declared_streams(settings: Settings) -> Iterable[Stream]:
    """The streams to make tables for; a broken file is reported and takes no other down."""
    discovered = discover(settings.steps_dir)
    for broken in discovered.broken:
        logger.error("left out %s: %s", broken.path, broken.cause)
    return discovered.streams.values()


def is_upgrade_to_head() -> bool:
    """Whether this run ends at the newest revision; `alembic current` and the like must change nothing."""
    function = context.get_context().opts["fn"]
    wanted = context.get_context().opts.get("destination_rev")
    return function.__name__ == "upgrade" and wanted in ("head", "heads", context.get_head_revision())


def is_for_a_server() -> bool:
    """Whether `tidelog serve` migrates: the server that it starts then says the rest."""
    return "streams" in context.config.attributes and "settings" not in context.config.attributes


def accepted(streams: Iterable[Stream]) -> frozenset[str]:
    """The streams whose new schema is taken, though stored items don't fit it. Raises DeclarationError.

    By `tidelog migrate --accept NAME`, or by `alembic -x accept=NAME,NAME upgrade head`.
    """
    given = set(context.config.attributes.get("accept", ()))
    for argument in context.get_x_argument():
        key, _, names = argument.partition("=")
        if key == "accept":
            given |= {name.strip() for name in names.split(",") if name.strip()}
    declared = sorted(stream.name for stream in streams)
    for name in sorted(given.difference(declared)):
        raise DeclarationError(f"accept: there is no stream {name!r}; there are: {', '.join(declared) or 'none'}")
    return frozenset(given)


def run_online(connection: Connection, streams: Sequence[Stream]) -> list[Declared]:
    """All but the indexes of streams, as far as it can be done; answers what is for somebody to mend."""
    context.configure(connection=connection, version_table_schema="streams", transaction_per_migration=False)
    troubles: list[Declared] = []
    accept = accepted(streams)
    with context.begin_transaction():
        take_migration_lock(connection)
        is_asking = bool(context.get_context().opts.get("dont_mutate"))  # as `alembic current` does
        if not is_asking:
            lock_versions(connection)
        # "If not exists" takes the right to make schemas, also where there is one.
        is_new = connection.exec_driver_sql("select to_regnamespace('streams') is null").scalar_one()
        if is_new and not is_asking:
            connection.exec_driver_sql("create schema if not exists streams")
        context.run_migrations()
        if is_upgrade_to_head():
            for declared in declare_streams(connection, streams, accept):
                if declared.trouble is not None:
                    troubles.append(declared)
                if declared.done is not None:
                    logger.info("%s", declared.done)
            note_indexes(connection, without(streams, troubles))
            for line in (connection.exec_driver_sql(GRANT_ROLES).scalar_one() or "").splitlines():
                logger.info('%s (see "Roles" in migrations/README.md)', line)
            connection.exec_driver_sql(GRANT_JOBS)
            connection.exec_driver_sql(GRANT_STATE)
            connection.exec_driver_sql(GRANT_TIME_TRAVEL)
    return troubles


def without(streams: Iterable[Stream], troubles: Iterable[Declared]) -> list[Stream]:
    """The streams whose tables are as they should be."""
    troubled = {declared.stream.name for declared in troubles}
    return [stream for stream in streams if stream.name not in troubled]


def run_on(connection: Connection, streams: Sequence[Stream]) -> None:
    """In the transaction of an application's own, where no index can be made concurrently."""
    troubles = run_online(connection, streams)
    if is_upgrade_to_head():
        for statement in indexes_to_make(connection, without(streams, troubles)):
            logger.warning("an index can't be made beside writers in a transaction: run `%s`", statement)
    refuse_troubles(troubles)


def run_offline(streams: Sequence[Stream]) -> None:
    context.configure(dialect_name="postgresql", version_table_schema="streams", literal_binds=True)
    with context.begin_transaction():
        output = context.get_context().impl.static_output
        output("create schema if not exists streams;")
        context.run_migrations()
        if is_upgrade_to_head():
            for stream in streams:
                for statement in (declaration_sql(stream), *notes_sql(stream)):
                    output(statement + ";")
            output(GRANT_ROLES + ";")
            output(GRANT_JOBS + ";")
            output(GRANT_STATE + ";")
            output(GRANT_TIME_TRAVEL + ";")
    if is_upgrade_to_head():
        for stream in streams:
            for statement in indexes_sql(stream):
                output(statement + ";")


async def migrate(url: str, streams: Sequence[Stream], given_by: str) -> None:
    """Raises StreamTableError, with all that could be done committed, if a stream is for somebody to mend."""
    async with first_connected(url, given_by=given_by, **MIGRATION_SETTINGS) as first:
        await check_server(first)
        await check_not_newer(first)
    connect = partial(connector(url), **MIGRATION_SETTINGS)
    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=pool.NullPool)
    try:
        async with engine.connect() as connection:
            await connection.exec_driver_sql(LIFT_TRANSACTION_TIMEOUT)
            await connection.commit()
            troubles = await connection.run_sync(run_online, streams)
            of_indexes: list[str] = []
            if is_upgrade_to_head():
                driver = (await connection.get_raw_connection()).driver_connection
                assert driver is not None  # noqa: S101 - it is open
                if not is_for_a_server():
                    await warn_of_undeclared(driver, streams)
                of_indexes = await make_indexes(driver, without(streams, troubles), is_for_a_server=is_for_a_server())
            if is_for_a_server():  # it serves without an index, if more slowly
                for trouble in of_indexes:
                    logger.error("%s", trouble)
                of_indexes = []
            refuse_troubles(troubles, of_indexes)
    except (DBAPIError, *CONNECTION_ERRORS) as error:
        cause = error.orig.__cause__ if isinstance(error, DBAPIError) and error.orig is not None else error
        told = " ".join(str(cause).split())  # Postgres's hint is the second line of what asyncpg says
        if is_lost(error) or isinstance(error, ConnectionError | TimeoutError | asyncpg.InterfaceError):
            raise DatabaseUnreachableError(
                f"lost the database while it was migrated: {told}. What was begun is stored whole or not at all: "
                "migrate again"
            ) from error
        if isinstance(cause, asyncpg.InsufficientPrivilegeError):
            raise GrantMissingError(
                f"the role may not migrate: {cause}. It takes the owner of the schema streams, or, to make it, "
                "`grant create on database ... to ...`"
            ) from error
        if isinstance(cause, asyncpg.PostgresError) and is_passing(error):
            raise MigrationFailedError(f"Postgres refused it, and nothing was changed: {told}") from error
        raise
    finally:
        await engine.dispose()


def main() -> None:
    """For `alembic` alone: ends the process with a line and status 1 on what somebody has to mend.

    tidelog.migrate gives, as attributes, what it has: streams, and a connection or settings.
    """
    given = context.config.attributes
    if "connection" in given:
        run_on(given["connection"], given["streams"])
    elif "settings" in given:
        run(given["settings"], given["streams"], given["database_given_by"])
    else:
        try:
            settings = Settings()
            configure(settings)
            streams = given.get("streams")  # `tidelog serve` knows them, and has not yet told what is broken
            run(settings, tuple(declared_streams(settings)) if streams is None else streams)
        except TOLD as error:
            sys.exit(last_words(error))


def run(settings: Settings, streams: Sequence[Stream], database_given_by: str = GIVEN_BY) -> None:
    if context.is_offline_mode():
        run_offline(streams)
        return
    if settings.database_url is not None:
        asyncio.run(migrate(settings.database_url, streams, database_given_by))
        return
    embedded = embedded_postgres(settings.data_dir)
    url = embedded.start()
    try:
        asyncio.run(migrate(url, streams, database_given_by))
    finally:
        embedded.stop()


main()
