"""Writers that come through PgBouncer in transaction mode. (The feed's own connections may not.)"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy.engine import make_url

from tests.harness import free_port
from tests.integration.sequencer_fixtures import WAIT_SECONDS, Log, sequencing

NOBODY = 65534  # a user and a group that may do nothing


@pytest.fixture
async def pgbouncer_url(database_url: str) -> AsyncIterator[str]:
    """The test's database behind PgBouncer in transaction mode, with fewer connections than clients."""
    program = shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")
    if program is None:
        pytest.skip("pgbouncer is not installed")
    url, port = make_url(database_url), free_port()
    socket_folder = url.query.get("host")
    folder = Path(tempfile.mkdtemp(prefix="tidelog-pgbouncer-"))
    (folder / "users").write_text(f'"{url.username}" ""\n')
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n* = host={socket_folder or url.host} port={url.port or 5432}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = trust\nauth_file = {folder}/users\npool_mode = transaction\ndefault_pool_size = 2\n"
    )
    process = start_pgbouncer(program, folder, socket_folder)
    pooled = url.set(host="127.0.0.1", port=port, query={}).render_as_string(hide_password=False)
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            with contextlib.suppress(OSError):
                await (await asyncpg.connect(pooled, statement_cache_size=0)).close()
                break
    yield pooled
    process.kill()
    process.wait()
    shutil.rmtree(folder)


def start_pgbouncer(program: str, folder: Path, socket_folder: Any) -> subprocess.Popen[bytes]:
    """It does not run as root: there it runs as who may enter the folder of Postgres's socket."""
    command = [program, str(folder / "pgbouncer.ini")]
    if os.geteuid() != 0:
        return subprocess.Popen(command, stderr=subprocess.DEVNULL)
    account = Path(str(socket_folder)).stat() if socket_folder else None
    user, group = (account.st_uid, account.st_gid) if account else (NOBODY, NOBODY)
    os.chown(folder, user, group)
    for path in folder.iterdir():
        os.chown(path, user, group)
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, user=user, group=group, extra_groups=[])


async def test_writers_behind_pgbouncer(log: Log, database_url: str, pgbouncer_url: str) -> None:
    """In transaction mode: the trigger needs nothing of a session."""

    async def write(name: str) -> None:
        connection = await asyncpg.connect(pgbouncer_url, statement_cache_size=0)
        for i in range(20):
            item = f"insert into streams.chat_message (group_id, id, data) values ('g', '{name} {i}', '{{}}')"
            event = "select streams.send('chatMessage', 'g', null, 'typing', '{}')"
            await connection.execute(f"begin; {item}; {event}; commit" if i % 2 else item)
        await connection.close()

    with sequencing(database_url):
        await asyncio.gather(*(write(f"{n}") for n in range(8)))
        assert await log.write_numbered("last") == 8 * 20 + 1
    await log.check()
