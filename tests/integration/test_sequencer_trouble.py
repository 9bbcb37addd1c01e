"""Numbering through what happens to a Postgres: every commit is numbered once, and soon after the trouble ends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy.engine import make_url

from tests.harness import Databases, eventually, migrate
from tests.integration.restore_fixtures import cluster, run
from tests.integration.sequencer_fixtures import (
    WAIT_SECONDS,
    Log,
    backend_of_sequencer,
    connected,
    sequencing,
)
from tests.proxy import Proxy, target_of, through
from tidelog.store.engine import Database
from tidelog.store.log import FEED_SETTINGS, LIFT_TRANSACTION_TIMEOUT

# What an administrator may have set for a role or a database, with steps or people in mind.
UNFRIENDLY = {
    "statement_timeout": "1ms",
    "lock_timeout": "1ms",
    "idle_in_transaction_session_timeout": "1ms",
    "idle_session_timeout": "1ms",
    "transaction_timeout": "1s",
    "client_connection_check_interval": "1ms",
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "synchronous_commit": "off",
}
FRIENDLY = {
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "transaction_timeout": "0",
    "client_connection_check_interval": "0",
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "synchronous_commit": "on",
}


async def test_settings_of_role_and_database_don_t_reach_the_sequencer(log: Log, database_url: str) -> None:
    """Neither its timeouts nor its transactions are what the database's default says."""
    version = log.writer.get_server_version().major
    unfriendly = {name: value for name, value in UNFRIENDLY.items() if name != "transaction_timeout" or version >= 17}
    for name, value in unfriendly.items():
        await log.writer.execute(f"alter database \"{make_url(database_url).database}\" set {name} = '{value}'")
    connection = await Database.connector(database_url)(**FEED_SETTINGS)
    await connection.execute(LIFT_TRANSACTION_TIMEOUT)
    assert {name: await connection.fetchval(f"show {name}") for name in unfriendly} == {
        name: FRIENDLY[name] for name in unfriendly
    }
    await connection.close()
    with sequencing(database_url):
        for i in range(3):
            await log.write_numbered(f"{i}")
    await log.check()


async def test_a_terminated_backend_is_replaced(log: Log, database_url: str) -> None:
    """Again and again, with commits before and after."""
    with sequencing(database_url):
        for i in range(10):
            pid = await backend_of_sequencer(log.observer)
            before = await log.write(f"{i} before")
            await log.observer.execute(f"select pg_terminate_backend({pid})")
            after = await log.write(f"{i} after")
            assert await log.until_numbered(before) + 1 == await log.until_numbered(after)
    await log.check()


@pytest.mark.slow
async def test_a_connection_that_goes_silent_is_given_up(log: Log, database_url: str) -> None:
    """Its backend, which hears nothing of it, is ended by the next connection."""
    async with Proxy(target_of(database_url)) as proxy:
        with sequencing(through(database_url, proxy)):
            await log.write_numbered("before")
            silent = await backend_of_sequencer(log.observer)
            proxy.silence()
            # By the silent one, if it had been asked just before. It may stay as long as there is nothing to number.
            assert await log.write_numbered("after") == 2
            assert await log.write_numbered("later") == 3

            async def is_replaced() -> bool:
                return await backend_of_sequencer(log.observer) != silent

            await eventually(is_replaced)
    await log.check()


async def test_long_transactions_hold_up_nobody(log: Log, database_url: str, databases: Databases) -> None:
    """Neither one that has written to a stream, nor one in this or another database, nor an old snapshot."""
    other_url = await databases.create()
    async with connected(database_url) as writing, connected(database_url) as reading, connected(other_url) as other:
        await writing.execute("begin")
        long = await log.write("long", connection=writing)
        await reading.execute("begin isolation level repeatable read; select count(*) from streams.change")
        await other.execute("begin; create table t (); select pg_current_xact_id()")
        with sequencing(database_url):
            assert [await log.write_numbered(f"{i}") for i in range(20)] == list(range(1, 21))
            await writing.execute("commit")
            assert await log.until_numbered(long) == 21
    await databases.drop(other_url)
    await log.check()


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
async def test_writers_of_any_isolation(log: Log, database_url: str, isolation: str) -> None:
    """What commits is numbered, what fails to serialise is not, and the sequencer is no party to it."""

    all_have_snapshots = asyncio.Barrier(4)

    async def write(name: str) -> tuple[int, int]:
        committed = failed = 0
        async with connected(database_url, default_transaction_isolation=isolation) as connection:
            for i in range(30):
                try:
                    async with connection.transaction():
                        if i == 0:  # of these only one can commit; later ones meet as it happens
                            await connection.execute("select from streams.chat_message")
                            await all_have_snapshots.wait()
                        await connection.execute(
                            "insert into streams.chat_message (group_id, id, data) "
                            "select 'hot', 'a', jsonb_build_object('n', count(*), 'by', $1::text) "
                            "from streams.chat_message "
                            "on conflict (group_id, id) do update set data = excluded.data",
                            f"{name} {i}",
                        )
                except asyncpg.SerializationError:
                    failed += 1
                else:
                    committed += 1
        return committed, failed

    with sequencing(database_url):
        outcomes = await asyncio.gather(*(write(f"{n}") for n in range(4)))
        last = await log.write_numbered("last")
    assert last == sum(committed for committed, _ in outcomes) + 1
    assert sum(failed for _, failed in outcomes) >= 3
    versions = await log.observer.fetch(
        "select version from streams.chat_message_history where group_id = 'hot' order by position, seq"
    )
    assert [row["version"] for row in versions] == list(range(1, last))
    await log.check()


@pytest.fixture
def own_cluster() -> Iterator[Databases]:
    with cluster() as databases:
        yield databases


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_restarted_server(own_cluster: Databases, mode: str) -> None:
    """Stopped in order or killed: what was committed is numbered when it is back."""
    url = await own_cluster.create()
    await asyncio.to_thread(migrate, url)
    with sequencing(url):
        written = []
        async with Log.open(url) as log:
            for i in range(5):
                await log.write_numbered(f"{i}")
            written = [await log.write(f"{i} before the restart") for i in range(5)]
            await restart(own_cluster, mode)
        async with Log.open(url) as log:
            assert [await log.until_numbered(xid) for xid in written] == list(range(6, 11))
            assert await log.write_numbered("after") == 11
            await log.check()


IS_ASLEEP = (  # it holds the doorbell's lock
    "select exists (select from pg_locks where locktype = 'advisory' and objid = 2 and mode = 'ExclusiveLock')"
)


@pytest.mark.slow
async def test_a_prepared_transaction(own_cluster: Databases) -> None:
    """One that rang can't be prepared. One that did not is numbered when it is committed, and holds up nobody."""
    url = await own_cluster.create()
    await asyncio.to_thread(migrate, url)
    async with connected(url) as connection:
        await connection.execute("alter system set max_prepared_transactions = 5")
    await restart(own_cluster, "fast")
    async with Log.open(url) as log, connected(url) as elsewhere:
        await elsewhere.execute("begin; create table elsewhere (); prepare transaction 'elsewhere'")
        await log.writer.execute("begin")
        unrung = await log.write("nobody listens yet")
        await log.writer.execute("prepare transaction 'unrung'")
        with sequencing(url):
            assert await log.write_numbered("other") == 1
            await log.writer.execute("commit prepared 'unrung'")
            assert await log.until_numbered(unrung) == 2
            async with asyncio.timeout(WAIT_SECONDS):
                while not await log.observer.fetchval(IS_ASLEEP):
                    pass  # each look is a round trip to the server
            await log.writer.execute("begin")
            await log.write("rings")
            with pytest.raises(asyncpg.FeatureNotSupportedError, match="NOTIFY"):
                await log.writer.execute("prepare transaction 'rung'")
            assert await log.write_numbered("after") == 3
        await log.check()


async def restart(databases: Databases, mode: str) -> None:
    folder = Path(str(make_url(databases.server_url).query["host"]))
    account = await asyncio.to_thread(folder.stat)
    # In its folder and told ".", as it was started.
    await run(
        *("pg_ctl", "-D", ".", "restart", "-w", "-m", mode, "-l", "server.log"), account=account, folder=str(folder)
    )
