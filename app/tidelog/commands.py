"""`litestar tidelog ...`: the commands of an application that has the plugin."""

from __future__ import annotations

import sys
from collections.abc import Collection
from typing import Protocol, runtime_checkable

from click import Group, option
from litestar import Litestar

from tidelog.errors import DeclarationError
from tidelog.logs.last_words import TOLD, last_words


@runtime_checkable
class Migrating(Protocol):
    """A plugin, as far as it is used here."""

    @property
    def stream_names(self) -> frozenset[str]: ...

    def migrate(self, accept: Collection[str] = ()) -> None: ...


def add_commands(cli: Group) -> None:
    """Add the group `tidelog`, once for all plugins. (Litestar's own groups give their commands the application.)"""
    if "tidelog" in cli.commands:
        return

    @cli.group("tidelog")
    def tidelog() -> None:
        """Tidelog's streams in this application."""

    @tidelog.command()
    @option("--accept", multiple=True, metavar="STREAM", help="Take a new schema, though stored items don't fit it.")
    def migrate(app: Litestar, accept: tuple[str, ...]) -> None:
        """Make or change the tables of every plugin's streams. Never drops or rewrites data."""
        plugins = [plugin for plugin in app.plugins if isinstance(plugin, Migrating)]
        try:
            unknown = set(accept).difference(*(plugin.stream_names for plugin in plugins))
            if unknown:
                raise DeclarationError(f"accept: there is no stream {min(unknown)!r}")
            for plugin in plugins:
                plugin.migrate(plugin.stream_names.intersection(accept))
        except TOLD as error:
            sys.exit(last_words(error))
