"""Tidelog as a plugin of a Litestar application: its routes, dependency, commands and lifespan."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from click import Group
from litestar.config.app import AppConfig
from litestar.exceptions import ImproperlyConfiguredException
from litestar.handlers import HTTPRouteHandler, WebsocketRouteHandler
from litestar.plugins import CLIPlugin, InitPlugin
from litestar.utils import normalize_path

from tidelog.commands import add_commands
from tidelog.composition import Tidelog
from tidelog.config import TidelogConfig
from tidelog.migrate import upgrade
from tidelog.model.step import endpoints_of
from tidelog.store.url import GIVEN_BY, DatabaseUrl
from tidelog.web.dependency import streams_dependency
from tidelog.web.gate import socket_route
from tidelog.web.health import health_controller
from tidelog.web.openapi import with_steps
from tidelog.web.page_rules import PageRules
from tidelog.web.paths import routes_below
from tidelog.web.steps import step_controllers


class TidelogPlugin(InitPlugin, CLIPlugin):
    """Tidelog in a Litestar application: the WebSocket, steps, and `streams` for the application's own handlers."""

    def __init__(self, config: TidelogConfig | None = None) -> None:
        """Read what is declared; nothing is connected before the application starts. Raises DeclarationError."""
        self.config = config or TidelogConfig()
        settings = self.config.effective_settings
        declared = self.config.declared()
        self.broken = declared.broken
        declared.log_left_out()
        self.tidelog = Tidelog(settings, declared, self.config.database_given_by)
        self.endpoints = endpoints_of(declared.steps)

    def serve_from(self, database_url: str) -> None:
        """From the application's next start on the database is the one at `database_url`. Raises DatabaseUrlError."""
        DatabaseUrl.parse(database_url)
        self.tidelog.settings = self.tidelog.settings.model_copy(update={"database_url": database_url})
        self.tidelog.database_given_by = GIVEN_BY
        self.tidelog.embedded = None

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        """Part of Litestar's plugins."""
        config, tidelog = self.config, self.tidelog
        self._refuse_what_is_there(app_config)
        app_config.lifespan.append(tidelog.lifespan)
        app_config.route_handlers.extend(self.route_handlers())
        app_config.dependencies[config.streams_dependency] = streams_dependency(
            tidelog.runtime, config.session_dependency
        )
        app_config.openapi_config = with_steps(
            app_config.openapi_config, self.endpoints, f"{app_config.path}/{config.path}", has_reads=config.has_reads
        )
        return app_config

    def _refuse_what_is_there(self, app_config: AppConfig) -> None:
        """Litestar would take either of two that have a name or a path, and the other would be served as well."""
        config = self.config
        name, path = config.streams_dependency, normalize_path(config.path)
        if name in app_config.dependencies:
            raise ImproperlyConfiguredException(
                f"there is a dependency {name!r} already: "
                "give Tidelog's another name, TidelogConfig(streams_dependency=...)"
            )
        for handler in app_config.route_handlers:
            if isinstance(handler, WebsocketRouteHandler) and path in map(normalize_path, handler.paths):
                raise ImproperlyConfiguredException(
                    f"there is a WebSocket at {path} already: give Tidelog's another path, TidelogConfig(path=...)"
                )
            read = normalize_path(f"{path}/streams")
            if (
                config.has_reads
                and isinstance(handler, HTTPRouteHandler)
                and read in map(normalize_path, handler.paths)
            ):
                raise ImproperlyConfiguredException(
                    f"there is a route {read} already: give Tidelog another path, TidelogConfig(path=...), or leave "
                    "its reads out, TidelogConfig(reads=False)"
                )

    def route_handlers(self) -> list[Any]:
        """What the application serves of it."""
        config, tidelog = self.config, self.tidelog
        handlers: list[Any] = [socket_route(config.path, tidelog.gate(), PageRules(tidelog.settings).guard_socket)]
        callers = tidelog.admission.callers
        handlers += step_controllers(self.endpoints, tidelog.runtime, routes_below(config.path), callers, tidelog.at)
        if config.has_reads:
            handlers += tidelog.reads(config.path)
        if config.health:
            handlers.append(health_controller(tidelog.checks, tidelog.warnings, config.path))
        return handlers

    def on_cli_init(self, cli: Group) -> None:
        """Part of Litestar's plugins: `litestar tidelog migrate`."""
        add_commands(cli)

    @property
    def stream_names(self) -> frozenset[str]:
        """Of all that are declared."""
        return frozenset(self.tidelog.streams)

    def migrate(self, accept: Collection[str] = ()) -> None:
        """Make or change the core's tables, then those of the declared streams; never drops or rewrites data.

        A new schema that stored items don't fit is refused, but of the streams that `accept` names.

        Blocks: in a coroutine, `await asyncio.to_thread(plugin.migrate)`.
        """
        upgrade(self.tidelog.settings, self.tidelog.streams.values(), accept, self.tidelog.database_given_by)
