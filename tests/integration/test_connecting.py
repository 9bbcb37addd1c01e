"""How connections are opened by what a database URL says beside host and database."""

from __future__ import annotations

import asyncio
import socket
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest
from sqlalchemy.engine import make_url

from tests.harness import eventually
from tests.integration.restore_fixtures import cluster, replica_of
from tests.proxy import Proxy, target_of, through
from tidelog.errors import DatabaseUnreachableError
from tidelog.migrate import upgrade
from tidelog.settings import Settings
from tidelog.store import requirements
from tidelog.store.capacity import warn_if_short
from tidelog.store.connecting import connector, first_connected
from tidelog.store.driver import OUR_OPTIONS, _keep_alive, connection_class
from tidelog.store.holders import MIGRATION_LOCK
from tidelog.store.log import FEED_SETTINGS
from tidelog.store.migration_lock import MIGRATION_NAME
from tidelog.store.requirements import check_server

HOST_TIMEOUT_SECONDS = 1


def behind(host: str, port: int, url: str) -> str:
    """The database of `url` as the second host, behind another one."""
    parsed = make_url(url)
    target = target_of(url)
    own_host, own_port = (str(target.parent), parsed.port or 5432) if not isinstance(target, tuple) else target
    user = quote(parsed.username or "") + (f":{quote(str(parsed.password))}" if parsed.password else "")
    return f"postgresql://{user}@/{parsed.database}?host={quote(f'{host},{own_host}')}&port={port},{own_port}"


async def test_a_dead_host_costs_the_first_connection_its_timeout_and_no_other(database_url: str) -> None:
    """It takes connections, and answers none. The good one is tried first from then on."""
    with socket.create_server(("127.0.0.1", 0)) as dead:
        dead.setblocking(False)
        port = dead.getsockname()[1]
        connect = connector(f"{behind('127.0.0.1', port, database_url)}&connect_timeout={HOST_TIMEOUT_SECONDS}")
        for _ in range(3):
            connection = await connect()
            assert await connection.fetchval("select 1") == 1
            await connection.close()
        dead.accept()[0].close()
        with pytest.raises(BlockingIOError):
            dead.accept()


@pytest.mark.slow
async def test_of_several_hosts_the_primary_is_served() -> None:
    """A standby that is named first is passed over, without target_session_attrs in the URL."""
    with cluster() as primary:
        async with replica_of(primary) as replica:
            standby = make_url(replica.url)
            url = behind(str(standby.query["host"]), int(str(standby.query["port"])), primary.server_url)
            connection = await connector(url)()
            assert await connection.fetchval("select pg_is_in_recovery()") is False
            await connection.close()


@pytest.mark.parametrize("is_told", [True, False])
async def test_a_database_that_is_lost_at_the_start_is_told_in_a_line(database_url: str, is_told: bool) -> None:
    """Whether Postgres still says why, or the network is gone. Other errors are what they are."""
    async with Proxy(target_of(database_url)) as proxy:
        url = through(database_url, proxy)
        with pytest.raises(DatabaseUnreachableError, match=r"^lost the database of TIDELOG_DATABASE_URL: [^\n]+$"):
            async with first_connected(url) as connection:
                if not is_told:
                    asyncio.get_running_loop().call_soon(proxy.cut)
                await connection.execute("select pg_terminate_backend(pg_backend_pid()), pg_sleep(60)")
        with pytest.raises(asyncpg.DivisionByZeroError):
            async with first_connected(url) as connection:
                await connection.execute("select 1 / 0")
        assert connection.is_closed()


async def test_a_database_that_is_lost_in_the_look_at_its_server_is_no_unfit_one(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That would send an operator to another provider."""
    monkeypatch.setattr(requirements, "HISTORY", "select pg_terminate_backend(pg_backend_pid()), pg_sleep(60)")
    with pytest.raises(DatabaseUnreachableError, match="lost the database"):
        async with first_connected(database_url) as connection:
            await check_server(connection)


async def test_limits_that_can_t_be_read_end_no_start() -> None:
    """They are for a warning only."""

    async def connect() -> asyncpg.Connection[Any]:
        raise ConnectionResetError

    await warn_if_short(connect, pool_size_max=1, workers=1)


async def test_a_database_that_is_lost_in_a_migration_is_told_in_a_line(database_url: str) -> None:
    """Not that Postgres refused it, nor that nothing was changed: a COMMIT may have been on its way."""
    # Another migration, which it waits for.
    other = await asyncpg.connect(database_url, server_settings={"application_name": MIGRATION_NAME})
    await other.execute(f"select pg_advisory_lock(1953064044, {MIGRATION_LOCK})")
    waits = (
        "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() "
        f"and application_name = '{MIGRATION_NAME}' and query like '%pg_try_advisory_xact_lock%'"
    )
    async with Proxy(target_of(database_url)) as proxy:
        settings = Settings(database_url=through(database_url, proxy))
        migrating = asyncio.create_task(asyncio.to_thread(upgrade, settings, ()))
        await eventually(lambda: other.fetchval(waits))
        proxy.cut()
        with pytest.raises(DatabaseUnreachableError, match=r"^lost the database while it was migrated: [^\n]+$"):
            await migrating
    await other.close()


async def test_options_of_the_url_reach_the_session_but_not_past_the_feeds_own(database_url: str) -> None:
    """What the feed stands on it sets itself."""
    options = quote("-c work_mem=7MB -c default_transaction_read_only=on", safe="")
    separator = "&" if "?" in database_url else "?"
    connect = connector(f"{database_url}{separator}options={options}&application_name=shop")
    steps, feed = await connect(), await connect(**FEED_SETTINGS, application_name="tidelog reader")
    try:
        for connection, expected in ((steps, ("7MB", "on", "shop")), (feed, ("7MB", "off", "tidelog reader"))):
            names = ("work_mem", "default_transaction_read_only", "application_name")
            assert tuple([await connection.fetchval(f"show {name}") for name in names]) == expected
    finally:
        await steps.close()
        await feed.close()


def options_of(end: socket.socket) -> dict[str, int]:
    tcp = {
        "keepalives_idle": socket.TCP_KEEPIDLE,
        "keepalives_interval": socket.TCP_KEEPINTVL,
        "keepalives_count": socket.TCP_KEEPCNT,
        "tcp_user_timeout": socket.TCP_USER_TIMEOUT,
    }
    is_kept = end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    return {"keepalives": is_kept} | {name: end.getsockopt(socket.IPPROTO_TCP, of) for name, of in tcp.items()}


@pytest.mark.parametrize("said", [{}, {"keepalives_idle": 31, "tcp_user_timeout": 4000}, {"keepalives": 0}])
async def test_keepalives_of_the_url_are_the_sockets_and_the_others_are_ours(said: dict[str, int]) -> None:
    """As the kernel has them."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as end:
        made: Any = connection_class(said)
        assert issubclass(made, asyncpg.Connection)
        _keep_alive(end, made.socket_options)
        assert options_of(end) == {**OUR_OPTIONS, **said}
