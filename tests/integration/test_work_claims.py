"""What a claim finds, and at what cost: `streams.claim_jobs`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.harness import eventually
from tests.integration.step_fixtures import StepKit, StepTemplate, open_steps
from tidelog.queue import workers
from tidelog.store.jobs import PARK, RESUME, Wanted, claim


@pytest.fixture
async def kit(step_template: StepTemplate) -> AsyncIterator[StepKit]:
    async with open_steps(step_template) as kit:
        yield kit


async def test_a_claim_looks_at_few_jobs_however_many_wait(kit: StepKit) -> None:
    """Of a flood, of one message group with a great many, and of a great many groups, of which those that were looked
    at come last the next time."""
    connection = await kit.database.connect(**workers.SETTINGS)
    insert = "insert into streams.step_job (step, topic, key, input, trace_id) select $1, 't', "
    many = "'{}', 't' from generate_series(1, 20000) n"
    for step_name, key in (("flood", "null"), ("group", "'k'"), ("groups", "'k' || n")):
        await connection.execute(f"{insert} {key}, {many}", step_name)
    fetched = "select idx_tup_fetch + seq_tup_read from pg_stat_xact_user_tables where relname = 'step_job'"
    after_keys: dict[str, str] = {}
    keys = []
    try:
        for _ in range(3):
            async with connection.transaction():
                before = await connection.fetchval(fetched)
                wanted = [Wanted(name, 4, None, False, after_keys.get(name)) for name in ("flood", "group", "groups")]
                claimed, ends, _ = await claim(connection, wanted, 12, 15)
                assert await connection.fetchval(fetched) - before < 200
            after_keys |= ends
            keys += [job.key for job in claimed if job.step == "groups"]
            assert [job.step for job in claimed].count("flood") == 4
        assert len(set(keys)) == 12
    finally:
        await connection.close()


async def test_what_is_due_is_found_beside_a_great_many_groups_that_are_not(kit: StepKit) -> None:
    """Their jobs are delayed, or come behind one that was parked: those cost one look, and are back when it goes."""
    connection = await kit.database.connect(**workers.SETTINGS)
    insert = "insert into streams.step_job (step, topic, key, input, trace_id, due_at) select $1, 't', "
    many = "'{}', 't', now() + $2 * interval '1 hour' from generate_series(1, 2000) n"
    await connection.execute(f"{insert} 'k' || n, {many}", "delayed", 1)
    await connection.execute(f"{insert} 'k' || n, {many}", "stopped", 0)
    await connection.execute(
        "insert into streams.step_parked "
        "(id, step, topic, key, input, trace_id, emitted_at, attempts, error, traceback) "
        "select -n, 'stopped', 't', 'k' || n, '{}', 't', now(), 1, 'e', '' from generate_series(1, 2000) n"
    )
    await connection.execute("vacuum analyze streams.step_job, streams.step_parked")
    for name in ("delayed", "stopped"):
        await connection.execute(f"{insert} 'z', '{{}}', 't', now()", name)
    wanted = [Wanted(name, 4, None, name == "stopped", None) for name in ("delayed", "stopped")]
    claimed = await claim(connection, wanted, 8, 15)
    assert [(job.step, job.key) for job in claimed.jobs] == [("delayed", "z")]
    looks = 0
    while claimed.has_more:
        looks += 1
        claimed = await claim(connection, [wanted[1]._replace(after_key=claimed.after_keys.get("stopped"))], 8, 15)
    assert looks < 20
    claimed = await claim(connection, wanted, 8, 15)
    aside = "select count(*) from streams.step_job where due_at = 'infinity'"
    assert (claimed.jobs, claimed.has_more, await connection.fetchval(aside)) == ([], False, 2000)
    assert await connection.fetchval("select streams.drop_parked(-1)") == 1
    assert await connection.fetchval("select streams.retry_parked(-2)") == 1
    assert await connection.fetchval(aside) == 1998
    claimed = await claim(connection, wanted, 8, 15)
    assert [(job.key, job.id < 0) for job in claimed.jobs] == [("k2", True), ("k1", False)]
    await connection.execute("delete from streams.step_parked where key = 'k3'")  # by hand
    await connection.execute(RESUME, ["stopped"], ["stopped"])
    assert await connection.fetchval(aside) == 1997
    await connection.execute(RESUME, ["stopped"], [])  # a release whose step isn't stopped any more
    assert await connection.fetchval(aside) == 0
    await connection.close()


@pytest.mark.parametrize("function", ["retry_parked", "drop_parked"])
async def test_who_sends_a_parked_job_back_waits_for_who_claims(kit: StepKit, function: str) -> None:
    """What a claim is putting aside would stay so: there would be nothing any more that it waits for."""
    connection, other = [await kit.database.connect(**workers.SETTINGS) for _ in range(2)]
    await connection.execute(
        "insert into streams.step_job (step, topic, key, input, trace_id) values ('s', 't', 'k', '{}', 'x')"
    )
    await connection.execute(
        "insert into streams.step_parked "
        "(id, step, topic, key, input, trace_id, emitted_at, attempts, error, traceback) "
        "values (-1, 's', 't', 'k', '{}', 't', now(), 1, 'e', '')"
    )
    async with connection.transaction():
        claimed = await claim(connection, [Wanted("s", 4, None, True, None)], 4, 15)
        assert (claimed.jobs, claimed.has_more) == ([], True)
        sending = asyncio.create_task(other.fetchval(f"select streams.{function}(step_name => 's')"))
        # On a connection of its own: a transaction sees the other sessions as they were at its first look.
        blocked = "select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        await eventually(lambda: kit.query(blocked))
    assert await sending == 1
    assert await connection.fetchval("select count(*) from streams.step_job where due_at = 'infinity'") == 0
    await connection.close()
    await other.close()


async def test_those_behind_one_that_is_tried_again_wait_with_it(kit: StepKit) -> None:
    """They fill no look for what is due: however many there are, another group's job is found at once."""
    connection = await kit.database.connect(**workers.SETTINGS)
    insert = "insert into streams.step_job (step, topic, key, input, trace_id, due_at) select 's', 't', "
    hour = "'{}', 't', now() + interval '1 hour'"
    await connection.execute(f"{insert} 'k' || n, {hour} from generate_series(1, 5000) n")
    await connection.execute(f"{insert} 'aaa', {hour}")
    await connection.execute(f"{insert} 'aaa', '{{}}', 't', now() from generate_series(1, 199)")
    await connection.execute(f"{insert} 'zzz', '{{}}', 't', now()")
    looks, jobs, after = 0, [], None
    while not jobs:
        looks += 1
        claimed = await claim(connection, [Wanted("s", 4, None, False, after)], 4, 15)
        assert claimed.jobs or claimed.has_more
        jobs, after = list(claimed.jobs), claimed.after_keys.get("s")
    assert [job.key for job in jobs] == ["zzz"] and looks < 8
    await connection.close()


async def test_a_parked_job_that_comes_back_is_nobodys_of_before(kit: StepKit) -> None:
    """Whoever had claimed it then, and was late, doesn't end it now: claims are counted on."""
    await kit.query(
        "insert into streams.step_job (step, topic, input, trace_id) values ('s', 't', '{}', 'x') returning 1"
    )
    connection = await kit.database.connect(**workers.SETTINGS)
    wanted = [Wanted("s", 1, None, False, None)]
    (first,) = (await claim(connection, wanted, 1, 0)).jobs  # its lease is over at once
    (second,) = (await claim(connection, wanted, 1, 15)).jobs
    await connection.execute(PARK, second.id, second.claim, "error", "")
    await connection.execute("select streams.retry_parked($1)", second.id)
    (third,) = (await claim(connection, wanted, 1, 15)).jobs
    assert first.claim < second.claim < third.claim
    await connection.close()
