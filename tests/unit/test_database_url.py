"""What a database URL says: every form that psql takes, and one line for what can't be done."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from asyncpg import connect_utils

from tidelog.errors import DatabaseUrlError
from tidelog.store.url import CONNECT_TIMEOUT_SECONDS, DatabaseUrl


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PG")]:
        monkeypatch.delenv(name)


def driver_reads(url: str) -> list[tuple[Any, Any]]:
    """What asyncpg itself makes of each DSN: (address, parameters)."""
    said = dict.fromkeys(
        ("host", "port", "user", "password", "passfile", "database", "ssl", "service", "servicefile", "direct_tls",
         "server_settings", "target_session_attrs", "krbsrvname", "gsslib")
    )  # fmt: skip
    read = []
    for dsn in DatabaseUrl.parse(url).dsns:
        (address,), parameters = connect_utils._parse_connect_dsn_and_args(dsn=dsn, **said)
        read.append((address, parameters))
    return read


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ada:p%40ss@db.example:5433/app",
        "postgres://ada:p%40ss@db.example:5433/app",
        "postgresql+asyncpg://ada:p%40ss@db.example:5433/app",
        "  postgresql://ada:p%40ss@db.example:5433/app\n",  # from a file
        "postgresql://ada@db.example/app?password=p%40ss&port=5433",
        "postgresql:///app?host=db.example&port=5433&user=ada&password=p%40ss",
        "host=db.example port = 5433 dbname='app' user=ada password='p@ss'",
        # What psql takes, and asyncpg sends to the server as a setting that it doesn't know:
        "postgresql://ada:p%40ss@db.example:5433/app?connect_timeout=3&gssencmode=disable&channel_binding=prefer",
        "postgresql://ada:p%40ss@db.example:5433/app?keepalives=1&keepalives_idle=30&keepalives_interval=5&sslsni=1",
    ],
)
def test_every_form_is_the_same_database(url: str) -> None:
    """URLs of each scheme, parameters in the query, libpq's pairs; white space around it is nothing."""
    ((address, parameters),) = driver_reads(url)
    assert address == ("db.example", 5433)
    assert (parameters.user, parameters.password, parameters.database) == ("ada", "p@ss", "app")
    assert parameters.server_settings is None


@pytest.mark.parametrize("password", ["p@ss", "a/b", "a:b", "a?b", "a#b", "100%", "p&s=s", "[x]", "pä ss", "it's \\"])
def test_a_password_may_have_any_character(password: str) -> None:
    """Escaped by percent in a URL, by a backslash in pairs."""
    escaped = password.replace("\\", "\\\\").replace("'", "\\'")
    for url in (f"postgresql://u:{quote(password, safe='')}@h/d", f"host=h dbname=d user=u password='{escaped}'"):
        assert driver_reads(url)[0][1].password == password


@pytest.mark.parametrize(
    ("url", "addresses"),
    [
        ("postgresql://a,b:5433/d", [("a", 5432), ("b", 5433)]),
        ("postgresql://[::1]:5433,b/d", [("::1", 5433), ("b", 5432)]),
        ("host=::1,b port=5433 dbname=d", [("::1", 5433), ("b", 5433)]),
        ("postgresql://u@/d?host=/run/one,b", ["/run/one/.s.PGSQL.5432", ("b", 5432)]),
        ("postgresql://%2Frun%2Fone/d", ["/run/one/.s.PGSQL.5432"]),
    ],
)
def test_several_hosts_are_tried_one_by_one_for_the_primary(url: str, addresses: list[Any]) -> None:
    """Each with a share of the time: a dead one must not use it all up. A single one is taken as it is."""
    read = driver_reads(url)
    assert [address for address, _ in read] == addresses
    assert {parameters.target_session_attrs.value for _, parameters in read} == {
        "primary" if len(addresses) > 1 else "any"
    }
    assert DatabaseUrl.parse(url).host_timeout_seconds == CONNECT_TIMEOUT_SECONDS / len(addresses)


def test_timeout_keepalives_options_and_name_are_taken() -> None:
    """Where they belong: to the driver, to the socket, to the session."""
    url = DatabaseUrl.parse(
        "postgresql://h/d?connect_timeout=3&keepalives_idle=30&tcp_user_timeout=9000&options=-c%20work_mem%3D8MB"
        "&application_name=shop"
    )
    assert url.host_timeout_seconds == 3
    assert url.socket_options == {"keepalives_idle": 30, "tcp_user_timeout": 9000}
    assert url.server_settings == {"options": "-c work_mem=8MB", "application_name": "shop"}


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("mysql://u:secret@h/d", "begins with mysql://"),
        ("http://h", "begins with http://"),
        ("jdbc:postgresql://h/d?password=secret", "begins with jdbc:postgresql://"),
        ("localhost", "is no URL"),
        ("", "is no URL"),
        ("postgresql://u:secret@h:http/d", "has the port 'http'"),
        ("postgresql://u:secret@h:54320000/d", "has the port"),
        ("postgresql://u:secret@h:0/d", "has the port '0'"),
        ("postgresql://u:secret@a,b/d?port=1,2,3", "3 ports for 2 hosts"),
        ("postgresql://u:sec@ret@h/d", "write it as %40"),
        ("postgresql://u:sec/ret@h/d", "write / as %2F"),
        ("postgresql://u:secret@::1/d", "in brackets"),
        ("postgresql://u:secret@h/d?channel_binding=require", "sslmode=verify-full"),
        ("postgresql://u:secret@h/d?gssencmode=require", "sslmode=require"),
        ("postgresql://u:secret@h/d?target_session_attrs=standby", "Tidelog writes"),
        ("postgresql://u:secret@h/d?require_auth=scram-sha-256", "has require_auth"),
        ("postgresql://u:secret@h/d?client_encoding=latin1", "are UTF8"),
        ("postgresql://u:secret@h/d?sslmodus=require", "did you mean sslmode?"),
        ("postgresql://u:secret@h/d?pgbouncer=true", "unknown parameter, pgbouncer"),
        ("postgresql://u:secret@h/d?statement_timeout=5", "options=-c%20statement_timeout"),
        ("postgresql://u:secret@h/d?connect_timeout=soon", "no whole number"),
        ("postgresql://u:secret@h/d?service=shop", "names the service shop"),
        ("host=h passwd=secret", "did you mean"),
    ],
)
def test_what_can_not_be_is_told_in_a_line_without_the_password(url: str, told: str) -> None:
    """Named, with what to write instead."""
    with pytest.raises(DatabaseUrlError) as refused:
        DatabaseUrl.parse(url)
    line = str(refused.value)
    assert told in line and "\n" not in line and "TIDELOG_DATABASE_URL" in line
    assert not any(secret in line for secret in ("secret", "ret@", "sec@", "sec/"))
    with pytest.raises(DatabaseUrlError, match=r"^the database URL \(tidelog\.open\) ") as elsewhere:
        DatabaseUrl.parse(url, "tidelog.open")
    assert "TIDELOG_DATABASE_URL" not in str(elsewhere.value)  # nobody is to look there


def test_a_service_is_read_from_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all of its parameters; what the URL says goes before."""
    (tmp_path / "services").write_text("[shop]\nhost=a,b\nport=5433\nuser=ada\npassword=50%\nconnect_timeout=4\n")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    url = "postgresql://eve@/app?service=shop"
    read = driver_reads(url)
    assert [address for address, _ in read] == [("a", 5433), ("b", 5433)]
    assert (read[0][1].user, read[0][1].password, read[0][1].database) == ("eve", "50%", "app")
    assert DatabaseUrl.parse(url).host_timeout_seconds == 4


def test_the_systems_own_roots_can_be_trusted() -> None:
    """As libpq has it since 16: the server's name is checked, whatever else is said."""
    for url in ("sslrootcert=system", "sslmode=verify-full&sslrootcert=system"):
        tls = DatabaseUrl.parse(f"postgresql://h/d?{url}").tls
        assert tls is not None and tls.check_hostname and tls.verify_mode is ssl.CERT_REQUIRED
    with pytest.raises(DatabaseUrlError, match="needs sslmode=verify-full"):
        DatabaseUrl.parse("postgresql://h/d?sslmode=require&sslrootcert=system")
