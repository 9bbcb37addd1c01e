"""A start that can't be is told in one line: what is wrong and what to do, by every command, without the password."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from tests import forks
from tests.harness import ROOT, free_port

SERVE = ("tidelog.cli", "serve")
COMMANDS = {
    "serve": SERVE,
    "migrate": ("alembic", "upgrade", "head"),
    "adopt": ("tidelog.cli", "adopt"),
}


def run(command: tuple[str, ...], data_dir: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """To its end; of our variables it has only these."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TIDELOG_", "PG"))}
    environment |= {"TIDELOG_DATA_DIR": str(data_dir), "TIDELOG_PORT": str(free_port()), **variables}
    return forks.run(command[0], command[1:], environment)


def check_one_line(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert done.returncode == 1, done
    assert done.stdout == "" and done.stderr.startswith("tidelog: ") and done.stderr.count("\n") == 1, done.stderr
    for part in parts:
        assert part in done.stderr
    assert "Traceback" not in done.stderr and "hush-hush" not in done.stderr


@pytest.fixture(scope="module")
def no_postgres() -> Iterator[int]:
    """The port of a server that ends every connection, as one that waits for HTTP does."""
    process = subprocess.Popen([sys.executable, "-c", NO_POSTGRES], stdout=subprocess.PIPE, text=True, bufsize=1)
    assert process.stdout is not None
    yield int(process.stdout.readline())
    process.kill()
    process.wait()
    process.stdout.close()


NO_POSTGRES = """
import socket
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
while True:
    one, _ = server.accept()
    one.recv(100)
    one.sendall(b"HTTP/1.1 400 Bad Request\\r\\n\\r\\n")
    one.close()
"""


CLOSED = ("postgresql://u:hush-hush@127.0.0.1:{closed}/d", "127.0.0.1:{closed}: nothing listens there")


@pytest.mark.parametrize(
    ("command", "url", "told"),
    [
        ("serve", *CLOSED),
        ("migrate", *CLOSED),
        ("adopt", *CLOSED),
        ("serve", "mysql://u:hush-hush@127.0.0.1/d", "begins with mysql://"),
        ("serve", "postgresql://u:hush-hush@127.0.0.1:{other}/d?sslmode=disable", "doesn't speak as Postgres does"),
        ("serve", "postgresql://u:hush-hush@127.0.0.1:{other}/d", "is no Postgres: are sslmode and port right?"),
        ("serve", "host=127.0.0.1 port={closed} user=u password='hush-hush' dbname=d", "nothing listens there"),
        ("serve", "postgresql://u:hush-hush@no.such.invalid/d", "no.such.invalid:5432: no such host"),
        ("serve", "postgresql://u:hush-hush@a.invalid,127.0.0.1:{closed}/d", "a.invalid:5432: no such host"),
        ("serve", "postgresql://u:hush-hush@127.0.0.1/d?sslmode=maybe", "sslmode"),
        ("migrate", "{absent}", 'database "absent" does not exist'),
        ("adopt", "", "unset it for the embedded Postgres"),
    ],
)
def test_a_database_that_can_not_be_used_is_one_line(
    tmp_path: Path, postgres_url: str, no_postgres: int, command: str, url: str, told: str
) -> None:
    """Serve, migrate and adopt say it alike; nothing is made meanwhile."""
    absent = make_url(postgres_url).set(database="absent").render_as_string(hide_password=False)
    values = {"closed": free_port(), "other": no_postgres, "absent": absent}
    done = run(COMMANDS[command], tmp_path / "data", TIDELOG_DATABASE_URL=url.format(**values))
    check_one_line(done, told.format(**values), "TIDELOG_DATABASE_URL")
    assert not (tmp_path / "data").exists()


def test_a_host_without_an_answer_is_given_up_in_its_time(tmp_path: Path) -> None:
    """As connect_timeout says."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        url = f"postgresql://u:hush-hush@127.0.0.1:{port}/d?connect_timeout=1"
        done = run(SERVE, tmp_path / "data", TIDELOG_DATABASE_URL=url)
    check_one_line(done, f"127.0.0.1:{port}: no answer in 1 s")


@pytest.mark.parametrize("command", [*COMMANDS.values(), ("app.main",)])
def test_a_misspelt_variable_is_named_with_the_right_one(tmp_path: Path, command: tuple[str, ...]) -> None:
    """Its value would be missed: the database of TIDELOG_DATABSE_URL, and another one be served."""
    done = run(command, tmp_path / "data", TIDELOG_DATABSE_URL="postgresql://u:hush-hush@127.0.0.1/d")
    check_one_line(done, "TIDELOG_DATABSE_URL is no setting: did you mean TIDELOG_DATABASE_URL?")
    assert not (tmp_path / "data").exists()


def test_each_wrong_setting_has_a_line(tmp_path: Path) -> None:
    """With the variable, its value and what is wrong with it."""
    done = run(SERVE, tmp_path / "data", TIDELOG_PORT="http", TIDELOG_POOL_SIZE_MAX="0")
    lines = sorted(done.stderr.splitlines())
    assert done.returncode == 1 and len(lines) == 2, done.stderr
    assert lines[0].startswith("tidelog: TIDELOG_POOL_SIZE_MAX is '0'") and "greater than or equal to 2" in lines[0]
    assert lines[1].startswith("tidelog: TIDELOG_PORT is 'http'") and "valid integer" in lines[1]


@pytest.mark.parametrize("command", [SERVE, ("tidelog.cli", "check"), ("tidelog.cli", "migrate")])
def test_a_folder_that_is_not_there_is_told_alike(tmp_path: Path, command: tuple[str, ...]) -> None:
    """By every command, with the error's code, and the option that was used."""
    done = run((*command, "--steps-dir", "stepz"), tmp_path / "data")
    check_one_line(done, f"tidelog: declaration_invalid: there is no folder {ROOT / 'stepz'}: ", "--steps-dir")
    assert not (tmp_path / "data").exists()
