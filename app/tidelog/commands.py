"""`litestar tidelog ...`: the commands of an application that has the plugin."""

from __future__ import annotations

import sys
from typing import Protocol, runtime_checkable

from click import Group
from litestar import Litestar

from tidelog.logs.last_words import TOLD, last_words


@runtime_checkable
class Migrating(Protocol):
    """A plugin, as far as it is used here."""

    def migrate(self) -> None: ...


def add_commands(cli: Group) -> None:
    """Add the group `tidelog`, once for all plugins. (Litestar's own groups give their commands the application.)"""
    if "tidelog" in cli.commands:
        return

    @cli.group("tidelog")
    def tidelog() -> None:
        """Tidelog's streams in this application."""

    @tidelog.command()
    def migrate(app: Litestar) -> None:
        """Make or change the tables of every plugin's streams. Never drops or rewrites data."""
        for plugin in app.plugins:
            if isinstance(plugin, Migrating):
                try:
                    plugin.migrate()
                except TOLD as error:
                    sys.exit(last_words(error))
