"""Every setting, with its bound and its reason. The only reader of the environment."""

import difflib
import ipaddress
import json
import os
import re
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

_NAME = r"(?:(?:\*\.)?[a-z0-9._-]+|\[[0-9a-f:.]+\])"
_HOST = re.compile(rf"\*|{_NAME}")
_ORIGIN = re.compile(rf"\*|null|[a-z][a-z0-9+.-]*://(?:\*|{_NAME})(?::(?:\*|[0-9]{{1,5}}))?")

PREFIX = "TIDELOG_"
UNIX = "unix"  # in trusted_proxies: those who come by a Unix socket
# Variables of ours that are no settings: of the scripts, the benchmarks and the tests.
_OTHER_VARIABLES = re.compile(r"TIDELOG_(?:PYTHON|SIDE|SUBSCRIBERS|TEST_\w+)")
# What Kubernetes and Docker set for a service whose name begins with "tidelog":
# https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
_SERVICE_LINK = re.compile(
    r"TIDELOG_(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_\w+)?)"
)
_SERVICE_LINK_VALUE = re.compile(r"(?:tcp|udp|sctp)://")

Entries = Annotated[tuple[str, ...] | None, NoDecode]

STEP_TIMEOUT_MAX_SECONDS = 86_400.0  # a day; Postgres counts milliseconds in 32 bits, which end at 24 days
NAMES_NEAR = 0.7  # of a variable and the setting that it is taken for; all begin alike
STEP_IDLE_MARGIN_SECONDS = 30.0  # after its time a step is broken off, which gets so long before Postgres does it


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


class Settings(BaseSettings):
    """Read from `TIDELOG_*` environment variables; `Settings()` raises pydantic's ValidationError."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True)

    database_url: str | None = Field(
        None, description="postgresql://..., or any form that psql takes; unset: the embedded Postgres"
    )
    data_dir: Path = Field(Path(".tidelog"), description="where the embedded Postgres keeps its data")
    steps_dir: Path = Field(Path("app/steps"), description="where *_stream.py and *_step.py are found, recursively")
    reads: bool = Field(
        True, description="whether streams are read over HTTP, at `/streams`; off: only by subscribers and in SQL"
    )
    host: str = Field("127.0.0.1", description="the address that scripts/serve listens on")
    port: int = Field(3000, ge=0, le=65535, description="the port that scripts/serve listens on")
    workers: int = Field(
        1, ge=1, description="server processes of scripts/serve; each has connections and a feed of its own"
    )
    cors_origins: Entries = Field(
        None,
        description="origins whose pages may call steps and open sockets, beside our own: https://app.example.com, "
        "https://*.example.com, http://localhost:*, null, *; a comma list, or JSON. Unset: pages on a developer's own "
        "machine, of a server that they find there. Empty: none",
    )
    allowed_hosts: Entries = Field(
        None,
        description="names that requests may call this server by: example.com, *.example.com, *; a comma list or JSON. "
        "Unset: any, but on a loopback address only localhost, *.localhost and loopback addresses, as pages can have "
        "other names lead there",
    )

    access: Annotated[Literal["open", "declared", "closed"], BeforeValidator(_lower)] | None = Field(
        None,
        description="who may have a stream that has no canAccess: everybody (open), whom the authentication knows "
        "(declared), nobody (closed). Unset: open on a loopback address, declared elsewhere",
    )
    access_timeout_seconds: float = Field(
        5, gt=0, le=60, description="how long authenticate, canAccess, onJoin and onLeave may take; past it they refuse"
    )
    jwt_secret: SecretStr | None = Field(
        None, description="tokens are JSON Web Tokens of HS256, signed with this secret of 32 bytes or more"
    )
    jwt_key_file: Path | None = Field(
        None, description="or of RS256, ES256 or EdDSA: a file with the public key in PEM, whose kind says which"
    )
    jwt_jwks: str | None = Field(
        None,
        description="or of a JSON Web Key Set: a file, or an https URL. It is read anew every 5 minutes (a file: 10 "
        "seconds), and when a token names a key that is not in it",
    )
    jwt_audience: Entries = Field(
        None, description="the `aud` that tokens must have, or one of a comma list; unset: only tokens without one"
    )
    jwt_issuer: Entries = Field(None, description="the `iss` that tokens must have, or one of a comma list; unset: any")
    jwt_leeway_seconds: float = Field(10, ge=0, le=300, description="how far the issuer's clock may be from this one's")
    jwt_required_claims: Entries = Field(
        ("exp",), description="claims that tokens must have, a comma list; empty: none, so that they may be for ever"
    )
    wrong_tokens_per_minute_max: int = Field(
        600,
        ge=1,
        description="wrong tokens that one address may send to a process in a minute; then it is answered 429, "
        "too_many_attempts, before the authentication is asked, but for tokens that were right of late. Enough for an "
        "office, or a proxy that isn't named; at ten a second a token of 40 random bits takes a thousand years",
    )
    trusted_proxies: Entries = Field(
        None,
        description="networks of the proxies that are believed from which address a client comes: 10.0.0.0/8, "
        "2001:db8::/32, 192.0.2.1, unix (those who come by a Unix socket); a comma list or JSON. Unset: none",
    )
    proxy_header: Annotated[Literal["x-forwarded-for", "forwarded"], BeforeValidator(_lower)] = Field(
        "x-forwarded-for",
        description="the header in which those proxies say it; the other one is not read, as they hand on what clients "
        "put there",
    )
    connections_max: int | None = Field(
        None,
        ge=1,
        description="connections of a process, in all; one more is answered 503, server_full. Unset: as many as it may "
        "have open files",
    )
    connections_per_address_max: int | None = Field(
        None,
        ge=1,
        description="connections of a process from one address (of IPv6, from one /64); one more is answered 429, "
        "too_many_connections. Behind trusted proxies WebSockets, and in "
        "scripts/serve requests under way, are counted by the clients' addresses. Unset: any "
        "number, as an address may be a whole office, or a proxy that isn't named",
    )
    connections_per_subject_max: int = Field(
        100,
        ge=1,
        description="WebSockets of a process for one authenticated user, in all pages and devices; one more is "
        "answered 429, too_many_connections",
    )

    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = Field(
        "info", description="the least that the server and the authors' files log; libraries log from warning on"
    )
    log_format: Annotated[Literal["auto", "json", "text"], BeforeValidator(_lower)] = Field(
        "auto", description="JSON lines, or columns for people; auto: those if standard error is a terminal"
    )
    log_access: bool | None = Field(
        None,
        description="a line for each request and WebSocket; none for health checks. They are several percent of what a "
        "step costs the server; unset: if standard error is a terminal",
    )

    retention_seconds: float | None = Field(
        None,
        gt=0,
        description="commits older than this are removed from the log and its history; unset: none. A stream may keep "
        "less, by `retention` in its config",
    )
    consumer_away_max_seconds: float | None = Field(
        None,
        gt=0,
        description="commits that a durable consumer has still to read are kept, but not for one that has done nothing "
        "for longer than this; unset: for ever",
    )
    pool_size_max: int = Field(
        20, ge=2, description="connections for steps and snapshots; each is a Postgres backend of about 10 MB"
    )
    pool_timeout_seconds: float = Field(
        10, gt=0, description="how long a step waits for a connection before it answers 503"
    )
    pool_idle_seconds: float = Field(
        30,
        gt=0,
        description="a connection that no step has used for so long is closed, but for one: others may need it",
    )
    step_timeout_seconds: float = Field(
        60,
        ge=0,
        le=STEP_TIMEOUT_MAX_SECONDS,
        description="how long a step's handler may run unless its config says otherwise (timeoutSeconds); 0: no limit. "
        "Proxies give up an answer after as much (nginx, AWS), and an open transaction keeps vacuum from its work",
    )
    step_pool_share: float = Field(
        0.75,
        gt=0,
        le=1,
        description="the part of the connections that one step's runs may have (but 2): the rest is the other steps', "
        "while those wait for one locked row",
    )
    step_lock_timeout_seconds: float = Field(
        5,
        ge=0,
        le=86_400,
        description="how long a step's statement waits for a lock before the step answers 503; shorter than others "
        "wait for the connection that it keeps. 0: as the role and the database say",
    )
    work_at_once_max: int = Field(
        10,
        ge=0,
        le=1000,
        description="event, cron, stream, state steps that a process runs at a time; in a server at most half of its "
        "connections. 0: a server runs none, and leaves them to `tidelog work`",
    )
    cron_timezone: str = Field("UTC", description="of the hours and days in cron steps: Europe/Berlin")
    body_size_max_bytes: int = Field(
        1_048_576,
        ge=1,
        description="largest request body, item and ephemeral event, as JSON text. (Items and events have "
        "64 MiB at most, whoever writes them: see check_json.sql)",
    )
    motia_metadata: bool | None = Field(
        None,
        description="items in steps' answers say in `__motia` where they are stored (stream, group and id), by which "
        "Motia's Workbench subscribes to them: always, or never. Unset: to a request with `x-motia-metadata: true`",
    )
    head_size_max_bytes: int = Field(
        65_536,
        ge=8192,
        description="largest request line and headers together; more is answered 431. What is counted begins with "
        "earlier requests of a connection: up to twice that is let through",
    )
    socket_message_size_max_bytes: int = Field(
        65_536, ge=1024, description="largest frame a client may send; a join is under 2 KB at the key limits"
    )
    socket_subscriptions_max: int = Field(1000, ge=1, description="subscriptions on one connection")
    socket_joins_per_second_max: int = Field(
        100,
        ge=1,
        description="subscriptions that a client may begin in a second, for long; at once it may begin three times as "
        "many as a connection may have, and ten seconds' worth. A client is a user, or an address if "
        "TIDELOG_CONNECTIONS_PER_ADDRESS_MAX is set, or else a connection. One that begins more is told when to go on",
    )
    socket_frames_per_second_max: int = Field(
        100,
        ge=1,
        description="WebSocket frames that a client may send for long, pings and pongs included. It may send more at "
        "once: four for each allowed subscription, and ten seconds' worth. A client that sends more is closed (1008). "
        "Handling a frame costs the server several times what sending it costs the client",
    )
    socket_buffer_bytes_max: int = Field(
        262_144, ge=4096, description="bytes waiting for one slow connection before it reads on from the log"
    )
    socket_drain_timeout_seconds: float = Field(
        30,
        gt=0,
        description="a connection that takes less than 500 bytes a second of what waits for it, for so long, is closed",
    )
    subscribe_patience_seconds: float = Field(
        45,
        gt=0,
        description="how long a subscription is tried to be served for want of connections or disk, say; "
        "more than the 32 s after which a silent database is known to be away, which is waited for without a limit",
    )
    sync_size_max_bytes: int = Field(
        67_108_864, ge=1, description="largest snapshot sent as one sync frame; the Motia dialect has no pages"
    )
    snapshot_size_max_bytes: int = Field(
        1_073_741_824, ge=1, description="largest snapshot sent in pages; it waits in a temporary file"
    )
    snapshot_memory_max_bytes: int = Field(
        268_435_456,
        ge=1_048_576,
        description="memory of all snapshots that are read or wait to be sent, in each process: three of the largest "
        "syncs, and some hundred small snapshots. What finds no room waits, or is in a file",
    )
    snapshot_disk_max_bytes: int = Field(
        4_294_967_296,
        ge=1_048_576,
        description="temporary files of all snapshots of a process: four of the largest. What finds no room waits; of "
        "one client, all but its first waits past half of it, and so with memory. Their folder is TMPDIR",
    )
    socket_ping_interval_seconds: float = Field(20, gt=0, description="how often an idle client is pinged")
    socket_ping_timeout_seconds: float = Field(
        20, gt=0, description="a client that does not pong in this time, and takes nothing, is dead"
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_misspelt(cls, values: Any) -> Any:
        wrong = misspelt(os.environ)
        if wrong:
            raise ValueError("\n".join(wrong))
        return values

    @field_validator("database_url")
    @classmethod
    def _check_url(cls, url: str | None) -> str | None:
        """Of white space there is some at the end of a file that it is read from."""
        if url is not None and not url.strip():
            raise ValueError("unset it for the embedded Postgres, or name a database: postgresql://user@host/database")
        return url and url.strip()

    @field_validator("port", mode="before")
    @classmethod
    def _check_port(cls, port: object) -> object:
        if isinstance(port, str) and _SERVICE_LINK_VALUE.match(port):
            raise ValueError(
                "Kubernetes sets it so for a service of the name tidelog: set enableServiceLinks: false, or a port"
            )
        return port

    @field_validator(
        "cors_origins",
        "allowed_hosts",
        "trusted_proxies",
        "jwt_audience",
        "jwt_issuer",
        "jwt_required_claims",
        mode="before",
    )
    @classmethod
    def _split(cls, value: Any) -> Any:
        """A list of entries, as somebody may write it: JSON, or with commas between."""
        if not isinstance(value, str):
            return value
        if value.lstrip().startswith("["):
            try:
                return json.loads(value)
            except ValueError as error:
                raise ValueError(f"it begins as a JSON list, and is none: {error}") from None
        return [entry.strip() for entry in value.split(",") if entry.strip()]

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, origins: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return origins and tuple(_checked(origin, _ORIGIN, "an origin: https://app.example.com") for origin in origins)

    @field_validator("allowed_hosts")
    @classmethod
    def _check_hosts(cls, hosts: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return hosts and tuple(_checked(host, _HOST, "a host, without scheme and port: example.com") for host in hosts)

    @field_validator("trusted_proxies")
    @classmethod
    def _check_proxies(cls, proxies: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return proxies and tuple(_network(proxy.strip().lower()) for proxy in proxies)

    @field_validator("cron_timezone")
    @classmethod
    def _check_timezone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"this machine knows no time zone {name!r}: UTC, or one like Europe/Berlin") from None
        return name

    @property
    def logs_access(self) -> bool:
        return sys.stderr.isatty() if self.log_access is None else self.log_access

    @property
    def step_idle_timeout_seconds(self) -> float:
        """How long Postgres leaves a step's transaction without a statement; 0 if there is no limit."""
        return idle_timeout_seconds(self.step_timeout_seconds)

    @property
    def retention(self) -> timedelta | None:
        return _seconds(self.retention_seconds)

    @property
    def consumer_away_max(self) -> timedelta | None:
        return _seconds(self.consumer_away_max_seconds)


def _seconds(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)


def misspelt(environment: Mapping[str, str]) -> list[str]:
    """What is wrong with the names of variables: a setting that isn't read would be missed at the worst moment.

    A misspelt TIDELOG_DATABASE_URL would serve the embedded Postgres instead.
    """
    settings = [PREFIX + name.upper() for name in Settings.model_fields]
    wrong = []
    for name, value in sorted(environment.items()):
        given = name.upper()
        if not given.startswith(PREFIX) or given in settings or _OTHER_VARIABLES.fullmatch(given):
            continue
        if _SERVICE_LINK.fullmatch(given) or _SERVICE_LINK_VALUE.match(value):
            continue
        near = difflib.get_close_matches(given, settings, n=1, cutoff=NAMES_NEAR)
        hint = f"did you mean {near[0]}?" if near else "app/tidelog/settings.py has them all; unset it"
        wrong.append(f"{name} is no setting: {hint}")
    return wrong


def idle_timeout_seconds(step_timeout_seconds: float) -> float:
    """What stands behind a step's limit, for a process that died or hangs; 0 is none."""
    return step_timeout_seconds + STEP_IDLE_MARGIN_SECONDS if step_timeout_seconds else 0


def _network(entry: str) -> str:
    if entry != UNIX:
        try:
            ipaddress.ip_network(entry, strict=False)
        except ValueError:
            raise ValueError(f"{entry!r} is not a network: 10.0.0.0/8, an address, or {UNIX}") from None
    return entry


def _checked(entry: str, shape: re.Pattern[str], what: str) -> str:
    entry = entry.strip().lower().removesuffix("/")
    if not shape.fullmatch(entry):
        raise ValueError(f"{entry!r} is not {what}")
    return entry
