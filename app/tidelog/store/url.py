"""What a database URL says, in every form that psql takes, as the driver wants it. Opens nothing.

The forms and the parameters: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING
What the driver can't do is refused with its reason: a connection must never be less safe than its URL says.
"""

from __future__ import annotations

import configparser
import difflib
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote, unquote, urlencode

from tidelog.errors import DatabaseUrlError

GIVEN_BY = "TIDELOG_DATABASE_URL"  # where nothing else is said

CONNECT_TIMEOUT_SECONDS = 10.0  # of all hosts together, unless the URL has connect_timeout
HOST_TIMEOUT_MIN_SECONDS = 2.0  # of one of many: a handshake with TLS over a slow line
PORT_MAX = 65_535
NEAR = 0.8  # of names that are taken for misspelt; connect_timeout and statement_timeout are two

# asyncpg reads these from its DSN.
_PASSED_ON = frozenset({
    "user", "password", "dbname", "passfile", "sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslpassword",
    "sslnegotiation", "ssl_min_protocol_version", "ssl_max_protocol_version", "target_session_attrs", "krbsrvname",
    "gsslib",
})  # fmt: skip
_OF_SOCKET = ("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout")
# And these are seen to here.
_OURS = frozenset({
    "host", "port", "service", "connect_timeout", "options", "application_name", "fallback_application_name",
    *_OF_SOCKET,
})  # fmt: skip
_NO_BINDING = (
    "the driver has no channel binding. For the same safety write sslmode=verify-full&sslrootcert=system instead"
)
_BY_DEFAULT = "the driver can't do otherwise"
# Values that ask for no more than the driver does anyway, and why it can't do the others.
_HARMLESS: Mapping[str, tuple[str, str]] = {
    "channel_binding": ("disable prefer", _NO_BINDING),
    "gssencmode": ("disable prefer", "the driver encrypts by TLS only: write sslmode=require instead"),
    "gssdelegation": ("0", _BY_DEFAULT),
    "client_encoding": ("utf8 utf-8 unicode auto", "Tidelog's sessions are UTF8"),
    "load_balance_hosts": ("disable", "hosts are tried in their order, the last good one first"),
    "replication": ("false off no 0", "Tidelog's sessions run SQL"),
    "sslcompression": ("0 1", _BY_DEFAULT),
    "sslsni": ("1", _BY_DEFAULT),
    "sslcertmode": ("allow", _BY_DEFAULT),
    "min_protocol_version": ("3.0", _BY_DEFAULT),
    "max_protocol_version": ("3.0 3.2 latest", _BY_DEFAULT),
}
_REFUSED: Mapping[str, str] = {
    "hostaddr": "write the address as the host",
    "require_auth": "the driver answers whatever the server asks; sslmode=verify-full makes sure which server it is",
    "requirepeer": "the driver can't look who serves a socket",
    "sslcrldir": "the driver takes a file: sslcrl",
}
_KNOWN = _PASSED_ON | _OURS | _HARMLESS.keys() | _REFUSED.keys()
_OTHER_NAMES = {"database": "dbname", "ssl": "sslmode"}  # asyncpg's, and those of SQLAlchemy's URLs; of JDBC's, too
_WRITABLE = ("any", "read-write", "primary")

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.:-]{0,40})://")
_OUR_SCHEME = re.compile(r"postgres(?:ql)?(?:\+[a-z0-9_]+)?", re.IGNORECASE)  # also SQLAlchemy's, with a driver
_PAIR = re.compile(r"\s*(\w+)\s*=\s*(?:'((?:[^'\\]|\\.)*)'|((?:[^\s'\\]|\\.)*))(?=\s|$)", re.DOTALL)
_NO_FORM = (
    "is no URL of a Postgres database: write postgresql://user:password@host:5432/database, "
    "or libpq's host=... dbname=..."
)


@dataclass(frozen=True, slots=True)
class DatabaseUrl:
    """Where connections go, and how they are made there."""

    dsns: tuple[str, ...]  # what asyncpg takes, of each host, in their order
    places: tuple[str, ...]  # the same hosts, for messages
    database: str | None
    user: str | None
    host_timeout_seconds: float
    server_settings: Mapping[str, str]
    socket_options: Mapping[str, int]  # of TCP, by libpq's names
    tls: ssl.SSLContext | None  # None: as the DSN says

    @classmethod
    def parse(cls, url: str, given_by: str = GIVEN_BY) -> DatabaseUrl:
        """Raises DatabaseUrlError, whose message has no password in it, and names by what the URL was `given_by`."""
        try:
            return cls._parsed(url)
        except DatabaseUrlError as error:
            raise DatabaseUrlError(f"the database URL ({given_by}) {error}") from error.__cause__

    @classmethod
    def _parsed(cls, url: str) -> DatabaseUrl:
        said = _with_service(_checked(_split(url.strip())))
        hosts = _hosts_of(said)
        if len(hosts) > 1:
            said.setdefault("target_session_attrs", "primary")  # a standby is of no use: the feed writes
        tls = _system_tls(said) if said.get("sslrootcert") == "system" else None
        passed = {name: value for name, value in said.items() if name in _PASSED_ON and value}
        return cls(
            dsns=tuple(_dsn(passed | host) for host in hosts),
            places=tuple(_place(host) for host in hosts),
            database=said.get("dbname"),
            user=said.get("user"),
            host_timeout_seconds=_timeout_of(said, len(hosts)),
            server_settings=_server_settings_of(said),
            socket_options={name: _integer(name, value) for name, value in said.items() if name in _OF_SOCKET},
            tls=tls,
        )


def _refuse(what: str) -> NoReturn:
    raise DatabaseUrlError(what)


def _split(url: str) -> dict[str, str]:
    """The parameters by name, of a URL or of libpq's `key=value` form."""
    scheme = _SCHEME.match(url)
    if scheme is None:
        return _split_pairs(url)
    if _OUR_SCHEME.fullmatch(scheme[1]) is None:
        _refuse(f"begins with {scheme[1]}://, and Tidelog needs a Postgres database: postgresql://...")
    rest = url[scheme.end() :]
    said: dict[str, str] = {}
    # As libpq does: the first @ before the first / ends user and password.
    at = rest.find("@", 0, rest.find("/") if "/" in rest else len(rest))
    if at >= 0:
        user, _, password = rest[:at].partition(":")
        said |= {"user": unquote(user), "password": unquote(password)}
        rest = rest[at + 1 :]
    hostspec, path, query = _parts(rest)
    if "@" in hostspec:
        _refuse("has two @ before its host: in a user or a password, write it as %40")
    if "@" in path:
        _refuse("has an @ behind a /: in a user or a password, write / as %2F and @ as %40")
    said |= _split_hostspec(hostspec)
    if path:
        said["dbname"] = unquote(path)
    for pair in query.split("&") if query else ():
        name, equals, value = pair.partition("=")
        if not equals:
            _refuse(f"has a parameter without a value: {name[:40]}")
        said[unquote(name)] = unquote(value)
    return {name: value for name, value in said.items() if value}


def _parts(rest: str) -> tuple[str, str, str]:
    """Hosts, path and query of what stands behind the user."""
    rest, _, query = rest.partition("?")
    hostspec, _, path = rest.partition("/")
    return hostspec, path, query


def _split_hostspec(hostspec: str) -> dict[str, str]:
    hosts, ports = [], []
    for one in hostspec.split(","):
        if one.startswith("["):
            host, bracket, port = one[1:].partition("]")
            if not bracket or (port and not port.startswith(":")):
                _refuse("has an IPv6 address without its brackets: [::1]:5432")
            port = port[1:]
        else:
            host, _, port = one.partition(":")
            if ":" in port:
                _refuse("has a host with two colons: write an IPv6 address in brackets, and : in a password as %3A")
        hosts.append(unquote(host))
        ports.append(port)
    return {"host": ",".join(hosts), "port": ",".join(ports) if any(ports) else ""}


def _split_pairs(text: str) -> dict[str, str]:
    said, end = {}, 0
    while end < len(text.rstrip()):
        pair = _PAIR.match(text, end)
        if pair is None:
            _refuse(_NO_FORM)
        said[pair[1]] = re.sub(r"\\(.)", r"\1", pair[2] if pair[2] is not None else pair[3], flags=re.DOTALL)
        end = pair.end()
    if not said:
        _refuse(_NO_FORM)
    return {name: value for name, value in said.items() if value}


def _checked(said: dict[str, str]) -> dict[str, str]:
    """`said` with libpq's names; what Tidelog can't do as it is said is refused."""
    said = {_OTHER_NAMES.get(name, name): value for name, value in said.items()}
    for name, value in said.items():
        if "\0" in value:
            _refuse(f"has a NUL character in {name[:40]}")
        if name in _REFUSED:
            _refuse(f"has {name}, which is not supported: {_REFUSED[name]}")
        if name in _HARMLESS:
            harmless, reason = _HARMLESS[name]
            if value.lower() not in harmless.split():
                _refuse(f"has {name}={value[:40]}, which is not supported: {reason}")
        elif name not in _KNOWN:
            near = difflib.get_close_matches(name, _KNOWN, n=1, cutoff=NEAR)
            hint = (
                f"did you mean {near[0]}?"
                if near
                else f"a setting of Postgres goes into options=-c%20{name[:40]}%3D..."
            )
            _refuse(f"has an unknown parameter, {name[:40]}: {hint}")
    wanted = said.get("target_session_attrs")
    if wanted is not None and wanted not in _WRITABLE:
        _refuse(
            f"has target_session_attrs={wanted[:40]}: Tidelog writes, and needs one of {', '.join(_WRITABLE)} "
            "(of several hosts it takes the primary by itself)"
        )
    return said


def _with_service(said: dict[str, str]) -> dict[str, str]:
    """What the service's section of the service file says, and over it what the URL says."""
    name = said.pop("service", None)
    if name is None:
        return said
    found = os.environ.get("PGSERVICEFILE")
    file = Path(found) if found else Path.home() / ".pg_service.conf"
    services = configparser.ConfigParser(interpolation=None)
    try:
        services.read_string(file.read_text())
        of_service = dict(services[name])
    except (OSError, configparser.Error, KeyError):
        _refuse(f"names the service {name[:40]}, which {file} doesn't have")
    return _checked(of_service) | said


def _hosts_of(said: Mapping[str, str]) -> list[dict[str, str]]:
    """Each host with its port, as a DSN has them; without a host it is for the driver to find one."""
    hosts = said.get("host", "").split(",")
    ports = said.get("port", "").split(",")
    if len(ports) == 1:
        ports *= len(hosts)
    if len(ports) != len(hosts):
        _refuse(f"has {len(ports)} ports for {len(hosts)} hosts")
    if "" in hosts and len(hosts) > 1:
        _refuse("has an empty name among its hosts")
    for port in ports:
        if port and not (port.isascii() and port.isdigit() and 0 < int(port) <= PORT_MAX):
            _refuse(f"has the port {port[:10]!r}, which is no number from 1 to {PORT_MAX}")
    named = [f"[{host}]" if ":" in host and not host.startswith("/") else host for host in hosts]
    return [
        {name: value for name, value in (("host", host), ("port", port)) if value}
        for host, port in zip(named, ports, strict=True)
    ]


def _dsn(said: Mapping[str, str]) -> str:
    return f"postgresql://?{urlencode(said, quote_via=quote)}"


def _place(host: Mapping[str, str]) -> str:
    name = host.get("host") or os.environ.get("PGHOST") or "this machine"
    return f"{name}:{host.get('port') or os.environ.get('PGPORT') or 5432}"


def _timeout_of(said: Mapping[str, str], hosts: int) -> float:
    """Of one host, as in libpq. 0 is no limit there; here it is ours."""
    wanted = _integer("connect_timeout", said.get("connect_timeout", "0"))
    return float(wanted) if wanted > 0 else max(CONNECT_TIMEOUT_SECONDS / hosts, HOST_TIMEOUT_MIN_SECONDS)


def _server_settings_of(said: Mapping[str, str]) -> dict[str, str]:
    name = said.get("application_name") or said.get("fallback_application_name")
    settings = {"application_name": name, "options": said.get("options")}
    return {name: value for name, value in settings.items() if value}


def _integer(name: str, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        _refuse(f"has {name}={value[:40]}, which is no whole number")


def _system_tls(said: Mapping[str, str]) -> ssl.SSLContext:
    """Whom the system trusts, which asyncpg has no word for; libpq takes it with sslmode=verify-full only."""
    if said.get("sslmode", "verify-full") != "verify-full":
        _refuse("has sslrootcert=system, which needs sslmode=verify-full")
    context = ssl.create_default_context()
    if "sslcert" in said:
        try:
            context.load_cert_chain(said["sslcert"], said.get("sslkey"), said.get("sslpassword"))
        except OSError as error:
            _refuse(f"has an sslcert that can't be read: {error}")
    return context
