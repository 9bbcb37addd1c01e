"""What `tidelog streams`, `rename-stream`, `drop-stream` and `convert-keys` run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import asyncpg
from rich_click import prompt

from tidelog.errand import run
from tidelog.errors import DeclarationError, StreamTableError
from tidelog.model.stream import Stream, table_name
from tidelog.runtime.discovery import discover
from tidelog.settings import Settings
from tidelog.store.migration_lock import MIGRATION_SETTINGS
from tidelog.store.stream_changes import Listed, convert_keys, drop_stream, list_streams, rename_stream

if TYPE_CHECKING:
    from tidelog.store.connecting import Connector

    Connection = asyncpg.Connection[Any]

Errand = Callable[["Connection", Settings], Awaitable[Iterable[str]]]


def list_main() -> None:
    """A line for each stream: of the files, of the database, or of both."""
    _main(_list)


def rename_main(old: str, new: str) -> None:
    """Rename a stream of the database."""
    _main(partial(_rename, old, new))


def drop_main(name: str, *, is_confirmed: bool) -> None:
    """Drop one, after its name was typed again."""
    _main(partial(_drop, name, is_confirmed))


def convert_main(names: Iterable[str]) -> None:
    """Convert the keys of those streams, or of all."""
    _main(partial(_convert, tuple(names)))


def _main(errand: Errand) -> None:
    """Do it, and say what was done; ends the process with a message and status 1 if it can't be."""

    async def on(connect: Connector, settings: Settings) -> Iterable[str]:
        connection = await connect(**MIGRATION_SETTINGS)
        try:
            return await errand(connection, settings)
        finally:
            await connection.close()

    for line in run(on):
        print(line)  # noqa: T201 - this is a command's output


async def _list(connection: Connection, settings: Settings) -> Iterable[str]:
    declared = discover(settings.steps_dir).streams
    stored = {one.name: one for one in await list_streams(connection)}
    lines = [_line(name, declared.get(name), stored.get(name)) for name in sorted(declared.keys() | stored.keys())]
    return lines or [f"no stream is declared in {settings.steps_dir}, and none is in the database"]


def _line(name: str, declared: Stream | None, stored: Listed | None) -> str:
    if stored is None:
        state = "declared, and not migrated"
    elif not stored.is_there:
        state = "declared, but its table is gone" if declared else "undeclared, and its table is gone"
    else:
        state = "declared" if declared else "undeclared: no file declares it"
    table = stored.table if stored else declared.table if declared else ""
    items = "" if stored is None or stored.items is None else f"    about {stored.items:,} items"
    return f"{name}    streams.{table}{items}    {state}"


async def _rename(old: str, new: str, connection: Connection, settings: Settings) -> Iterable[str]:
    number = await rename_stream(connection, old, new, table_name(new))
    yielded = [
        f"stream {old} is {new} now, in streams.{table_name(new)}; {number:,} items were logged as created in it"
    ]
    if old in _declared(settings):
        yielded.append(f"A file declares {old} still: rename it there, or the next start makes an empty stream of it.")
    return [*yielded, "Restart the servers that know it by the old name."]


async def _drop(name: str, is_confirmed: bool, connection: Connection, settings: Settings) -> Iterable[str]:
    found = {one.name: one for one in await list_streams(connection)}.get(name)
    if found is None:
        raise StreamTableError(f"no stream is named {name!r} in this database: see `tidelog streams`")
    if not is_confirmed:
        typed = await asyncio.to_thread(
            prompt, f"This drops streams.{found.table} with its items. Type the stream's name to go on", type=str
        )
        if typed != name:
            raise StreamTableError(f"{typed!r} is not {name!r}: nothing was changed")
    number = await drop_stream(connection, name)
    lines = [f"stream {name} is dropped; {number:,} items were logged as deleted, and stay in the log"]
    if name in _declared(settings):
        lines.append("A file declares it still: without that, the next start makes an empty stream of it.")
    return lines


async def _convert(names: Iterable[str], connection: Connection, settings: Settings) -> Iterable[str]:
    stored = {one.name: one for one in await list_streams(connection) if one.is_there}
    for name in names:
        if name not in stored:
            raise StreamTableError(f"no stream is named {name!r} in this database: see `tidelog streams`")
    lines = []
    for name in names or stored:
        is_done = await convert_keys(connection, stored[name].table)
        lines.append(f'stream {name}: its keys are collate "C" {"now" if is_done else "already"}')
    return lines or ["no stream is in the database"]


def _declared(settings: Settings) -> Iterable[str]:
    """By files, if there are any here."""
    try:
        return discover(settings.steps_dir).streams.keys()
    except DeclarationError:
        return ()
