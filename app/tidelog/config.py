"""What an application says of its Tidelog: what is declared, and where it is served."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tidelog.errors import DeclarationError
from tidelog.model.rule import Function
from tidelog.model.stream import Stream, check_is_stream
from tidelog.runtime.discovery import Discovered, discover
from tidelog.settings import Settings
from tidelog.store.url import GIVEN_BY


@dataclass(frozen=True, slots=True, kw_only=True)
class TidelogConfig:
    """What is served, and where. All else is a setting, by `settings` or else by TIDELOG_* in the environment."""

    database_url: str | None = None  # instead of the setting; without either, the embedded Postgres
    streams: Sequence[Stream] = ()
    steps_dir: Path | str | None = None  # with *_stream.py and *_step.py; None: there are none
    path: str = "/"  # of the WebSocket; steps, reads and health are below it
    reads: bool = True  # whether there is <path>/streams, by which streams are read over HTTP
    authenticate: Callable[[Any], Any] | None = None  # of a request: who sends it, see the page of tidelog.access
    health: bool = False  # whether there are <path>/health/live and <path>/health/ready
    streams_dependency: str = "streams"  # what handlers call it
    session_dependency: str = "db_session"  # an AsyncSession of the application's, if it has one by this name
    settings: Settings = field(default_factory=Settings)

    @property
    def effective_settings(self) -> Settings:
        """With what is said here."""
        said = {"database_url": self.database_url} if self.database_url is not None else {}
        return self.settings.model_copy(update=said)

    @property
    def database_given_by(self) -> str:
        """For messages: somebody looks there."""
        return GIVEN_BY if self.database_url is None else "TidelogConfig(database_url=...)"

    @property
    def has_reads(self) -> bool:
        """Neither this nor the settings leave them out."""
        return self.reads and self.settings.reads

    def declared(self) -> Discovered:
        """Streams and steps, those of files and those that were given. Raises DeclarationError."""
        found = Discovered(streams={}, steps=()) if self.steps_dir is None else discover(Path(self.steps_dir))
        streams = dict(found.streams)
        tables = {stream.table: stream.name for stream in streams.values()}
        for stream in self.streams:
            check_is_stream(stream, "TidelogConfig(streams=...)")
            if stream.table in tables:
                raise DeclarationError(
                    f"streams {tables[stream.table]!r} and {stream.name!r} would both be the table "
                    f"streams.{stream.table}: rename one"
                )
            tables[stream.table] = stream.name
            streams[stream.name] = stream
        if self.authenticate is None:
            return replace(found, streams=streams)
        if found.authenticate is not None:
            raise DeclarationError("stream_auth.py and TidelogConfig(authenticate=...) are there: leave one out")
        authenticate = Function.of("authenticate", self.authenticate, ("request",))
        return replace(found, streams=streams, authenticate=authenticate)
