"""Opens connections where a database URL says, and says in words why none can be had."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

import asyncpg
from asyncpg.exceptions import TargetServerAttributeNotMatched

from tidelog.errors import DatabaseUnreachableError
from tidelog.logs.redaction import Redaction
from tidelog.store.driver import KEEPALIVE_SETTINGS, connection_class
from tidelog.store.failure import is_lost
from tidelog.store.url import GIVEN_BY, DatabaseUrl

# What another of several hosts may not have. As in libpq, a refused password is everywhere the same.
_OF_THE_HOST = (OSError, asyncpg.CannotConnectNowError, TargetServerAttributeNotMatched)
# A server that isn't Postgres answers in ways that asyncpg doesn't expect.
_ANY = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, ValueError)


class Connector(Protocol):
    """Opens a connection of its own, with Postgres settings for that session."""

    async def __call__(self, **server_settings: str) -> asyncpg.Connection[Any]: ...


def connector(url: str, given_by: str = GIVEN_BY) -> Connector:
    """A function that opens a new connection. It raises OSError or asyncpg's errors; this one, DatabaseUrlError.

    Of several hosts the last good one is tried first, for a dead one costs each connection its timeout.
    """
    target = DatabaseUrl.parse(url, given_by)
    made = connection_class(target.socket_options)
    good = 0

    async def connect(**server_settings: str) -> asyncpg.Connection[Any]:
        nonlocal good
        # JIT compiles for longer than any statement of ours runs.
        settings = {
            "application_name": "tidelog",
            "jit": "off",
            **KEEPALIVE_SETTINGS,
            **target.server_settings,
            **server_settings,
        }
        failed: list[BaseException] = []
        for number in _from(good, len(target.dsns)):
            try:
                connection = await asyncpg.connect(
                    target.dsns[number],
                    timeout=target.host_timeout_seconds,
                    server_settings=settings,
                    connection_class=made,
                    ssl=target.tls,
                )
            except _OF_THE_HOST as error:
                error.add_note(f"{target.places[number]}: {_why(error, target.host_timeout_seconds)}")
                failed.append(error)
            else:
                good = number
                return connection
        raise _with_notes_of_all(failed)

    return connect


async def first_connection(url: str, *, given_by: str = GIVEN_BY, **server_settings: str) -> asyncpg.Connection[Any]:
    """A connection, for the start: what is wrong is told to a person, who knows the URL by what it was `given_by`.

    Raises DatabaseUrlError or DatabaseUnreachableError: one line, without the password.
    """
    target = DatabaseUrl.parse(url, given_by)
    connect = connector(url, given_by)
    try:
        return await connect(**server_settings)
    except _ANY as error:
        notes = getattr(error, "__notes__", [])
        cause = "; ".join(notes) or f"{' and '.join(target.places)}: {_why(error, target.host_timeout_seconds)}"
        raise DatabaseUnreachableError(
            f"can't connect to the database of {given_by}: {_in_a_line(cause, url)}"
        ) from error


@asynccontextmanager
async def first_connected(
    url: str, *, given_by: str = GIVEN_BY, **server_settings: str
) -> AsyncIterator[asyncpg.Connection[Any]]:
    """The same, closed at the end. That it is lost before is told likewise."""
    connection = await first_connection(url, given_by=given_by, **server_settings)
    try:
        yield connection
    except _ANY as error:
        if not (is_lost(error) or connection.is_closed()):
            raise
        raise DatabaseUnreachableError(f"lost the database of {given_by}: {_in_a_line(str(error), url)}") from error
    finally:
        await connection.close()


def _in_a_line(cause: str, url: str) -> str:
    return " ".join(Redaction.of_database(url).text(cause).split())


def told(error: BaseException) -> str:
    """What a connection failed on: where and why if it could not be opened, else the error itself."""
    return "; ".join(getattr(error, "__notes__", [])) or f"{type(error).__name__}: {error}"


def _from(first: int, count: int) -> Sequence[int]:
    return [(first + turn) % count for turn in range(count)]


def _with_notes_of_all(failed: Sequence[BaseException]) -> BaseException:
    last = failed[-1]
    notes = [note for error in failed for note in getattr(error, "__notes__", [])]
    last.__notes__ = notes
    return last


def _why(error: BaseException, timeout_seconds: float) -> str:
    """What is wrong, and what to do."""
    said = str(error).rstrip(".")
    match error:
        case ssl.SSLError():
            return f"TLS failed ({said}): see sslmode and sslrootcert"
        case socket.gaierror():
            return f"no such host ({error.strerror}): is its name right?"
        case TimeoutError():
            return f"no answer in {timeout_seconds:g} s: are host and port right, and does a firewall let us through?"
        case FileNotFoundError():  # of a socket
            return (
                "nothing listens there: does the server run? The embedded Postgres does while `tidelog serve` does; if "
                "that does, its Postgres has died, which a restart mends"
            )
        case ConnectionRefusedError():
            return "nothing listens there: does the server run, and is the port right?"
        case ConnectionError() if "rejected SSL" in said:
            return "what listens there takes no TLS, or is no Postgres: are sslmode and port right?"
        case OSError() if "Connect call failed" in said or "Multiple exceptions" in said:
            return f"nothing listens there: does the server run, and is the port right? ({said})"
        case TargetServerAttributeNotMatched():
            return "it is a standby, or takes no writes"
        case asyncpg.InvalidCatalogNameError():
            return f'{said}: make it ("create database ..."), or correct the name'
        case asyncpg.InvalidAuthorizationSpecificationError():
            return f"{said}: are user and password right, and does pg_hba.conf let this machine in?"
        case asyncpg.ConnectionDoesNotExistError() | asyncpg.ProtocolViolationError() | asyncpg.InternalClientError():
            return f"what listens there doesn't speak as Postgres does ({said}): is the port right?"
        case ConnectionError() if "connection_lost" in said or isinstance(error, ConnectionResetError):
            return f"what listens there doesn't speak as Postgres does ({said}): is the port right?"
        case _:
            return said or type(error).__name__
