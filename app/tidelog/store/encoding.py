"""The encoding of the database: with any but UTF8 one text that can't be told stops the feed, or answers 500."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tidelog.errors import EncodingError

if TYPE_CHECKING:
    import asyncpg

ENCODINGS = """
    select current_database(), current_setting('server_encoding'), current_setting('client_encoding')
"""


def check_encodings(database: str, of_server: str, of_session: str) -> None:
    """Take the row of ENCODINGS; raises EncodingError saying what to do."""
    if of_server != "UTF8":
        raise EncodingError(
            f"the database {database} has the encoding {of_server}, and Tidelog needs UTF8: "
            + (
                "it takes bytes that are no text, and one such item would stop the feed for everybody"
                if of_server == "SQL_ASCII"
                else "what it has no characters for, an emoji say, could not be stored"
            )
            + ". The encoding of a database can't be changed. Make another one, "
            "`create database tidelog encoding 'UTF8' template template0`, move the data with pg_dump and pg_restore, "
            "and set TIDELOG_DATABASE_URL"
        )
    if of_session != "UTF8":
        raise EncodingError(
            f"the session's client_encoding is {of_session}, though UTF8 was asked for: something between here and the "
            f"database {database} sets it (a pooler, say); have it leave that to its clients"
        )


async def check_encoding_of(connection: asyncpg.Connection[Any]) -> None:
    """Raise EncodingError if this connection's database, or its session, is no good."""
    row = await connection.fetchrow(ENCODINGS)
    assert row is not None  # noqa: S101 - a select without from
    check_encodings(*row)
