"""The author's application, made to be started on a test's database. Starts nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

from litestar import Litestar

from tidelog.asgi import delivered
from tidelog.composition import Tidelog
from tidelog.config import TidelogConfig
from tidelog.errors import ApplicationUnfitError
from tidelog.model.stream import Stream
from tidelog.outside import OpenStreams, opened
from tidelog.plugin import TidelogPlugin

MakeApp = Callable[[str], Litestar]


def app_of(config: TidelogConfig) -> MakeApp:
    """A function that makes the server as delivered, for what `config` declares, on the database of a URL."""

    def make(database_url: str) -> Litestar:
        return delivered(replace(config, database_url=database_url))

    return make


def app_on(app: Litestar | MakeApp, database_url: str) -> Litestar:
    """The application, or what the function makes, to be started on this database. Raises ApplicationUnfitError.

    An application that was made before, with another URL, is pointed at this one.
    """
    if isinstance(app, Litestar):
        _point(app, database_url)
        found = app
    else:
        found = app(database_url)
    plugins = plugins_of(found)
    if database_url not in [plugin.tidelog.settings.database_url for plugin in plugins]:
        raise ApplicationUnfitError(
            "the function of the fixture tidelog_app made an application without a TidelogPlugin for the database that "
            "it was given: have it pass the URL on, TidelogConfig(database_url=...)"
        )
    _refuse_broken(plugins)
    return found


def plugins_of(app: Litestar) -> list[TidelogPlugin]:
    """Its Tidelogs."""
    return [plugin for plugin in app.plugins if isinstance(plugin, TidelogPlugin)]


def streams_of(app: Litestar, database_url: str) -> Sequence[Stream]:
    """Those that it has in this database."""
    return [stream for tidelog in _on(app, database_url) for stream in tidelog.streams.values()]


def opened_of(app: Litestar, database_url: str) -> AbstractAsyncContextManager[OpenStreams]:
    """Its streams in this database, for who is none of its steps, and emits to them."""
    (tidelog, *_) = _on(app, database_url)
    return opened(database_url, streams_of(app, database_url), tidelog.runtime.emitter, tidelog.settings)


def _on(app: Litestar, database_url: str) -> list[Tidelog]:
    found = [plugin.tidelog for plugin in plugins_of(app)]
    return [tidelog for tidelog in found if tidelog.settings.database_url == database_url]


def _point(app: Litestar, database_url: str) -> None:
    plugins = plugins_of(app)
    if len(plugins) != 1:
        raise ApplicationUnfitError(
            f"the fixture tidelog_app returned an application with {len(plugins)} TidelogPlugins: with one it can be "
            "tested as it is; else return a function that takes a database's URL and makes the application"
        )
    session = plugins[0].config.session_dependency
    if session in app.dependencies:  # it would go on to write to the database that its engine was made for
        raise ApplicationUnfitError(
            f"the fixture tidelog_app returned an application with sessions of its own ({session}), whose database is "
            "not the test's: return a function that takes the database's URL and makes the application for it"
        )
    plugins[0].serve_from(database_url)


def _refuse_broken(plugins: Sequence[TidelogPlugin]) -> None:
    """A server leaves these files out and says so in its log; a test would fail for something else."""
    broken = [f"{file.path}: {file.cause}" for plugin in plugins for file in plugin.broken]
    if broken:
        raise ApplicationUnfitError("files that can't be used:\n  " + "\n  ".join(broken))
