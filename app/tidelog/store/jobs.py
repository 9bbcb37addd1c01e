"""The queue in the database: jobs are put in, claimed, and ended. How they travel is told in 0011_jobs/tables.sql."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tidelog.errors import ClaimLostError
from tidelog.store.asking import Lend, ask

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[Any]

# ruff: noqa: S608 - the texts are put together of constants
# The bell is rung in the statement that makes the jobs, whether it makes one or many.
_RING = "with bell as materialized (select streams.ring_workers())"
PUT_EVENT = (
    f"{_RING} insert into streams.step_job (step, topic, key, input, trace_id, due_at) "
    "select s.step, $1, s.key, $2::text::jsonb, $3, clock_timestamp() + s.delay * interval '1 second' "
    "from bell, unnest($4::text[], $5::text[], $6::float8[]) as s (step, key, delay)"
)
PUT_CHANGES = (
    f"{_RING} insert into streams.step_job (step, topic, key, input, trace_id, due_at) "
    "select c.step, $1, c.key, c.input::jsonb, c.trace_id, clock_timestamp() + c.delay * interval '1 second' "
    "from bell, unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::float8[]) "
    "with ordinality as c (step, key, input, trace_id, delay, place) order by c.place"
)
# A tick's job and the note that it has one are one statement. While the job before it waits, there is none.
PUT_TICK = (
    f"{_RING}, tick as (update streams.step_cron set last_at = $2 where step = $1 and last_at < $2 returning step) "
    "insert into streams.step_job (step, topic, key, input, trace_id) "
    "select t.step, $3, '', '{}', $4 from bell, tick t "
    "where not exists (select from streams.step_job j where j.step = t.step and not j.is_claimed)"
)
# A new schedule begins now: what it would have had to do before is not made good.
KEEP_CRON = (
    "insert into streams.step_cron as c (step, expression, last_at) "
    "select s.step, s.expression, clock_timestamp() from unnest($1::text[], $2::text[]) as s (step, expression) "
    "on conflict (step) do update set expression = excluded.expression, last_at = excluded.last_at "
    "where c.expression <> excluded.expression"
)
CRON = "select step, last_at, clock_timestamp() as now from streams.step_cron where step = any ($1::text[])"
CLAIM = "select * from streams.claim_jobs($1, $2, $3, $4, $5, $6, $7)"
END = "delete from streams.step_job where id = $1 and claim = $2 returning streams.transaction_id()"
RENEW = (
    "update streams.step_job set due_at = clock_timestamp() + $3 * interval '1 second' where id in ("
    "select j.id from streams.step_job j join unnest($1::bigint[], $2::bigint[]) as c (id, claim) "
    "on j.id = c.id and j.claim = c.claim for update of j skip locked)"
)
RETRY = (
    "update streams.step_job set is_claimed = false, unended = 0, attempts = attempts + 1, error = $3, "
    "due_at = clock_timestamp() + $4 * interval '1 second' where id = $1 and claim = $2"
)
RELEASE = (
    "update streams.step_job set is_claimed = false, unended = 0, "
    "due_at = clock_timestamp() + $3 * interval '1 second' where id = $1 and claim = $2"
)
PARK = (
    "with gone as (delete from streams.step_job where id = $1 and claim = $2 returning *) "
    "insert into streams.step_parked "
    "(id, step, topic, key, input, trace_id, emitted_at, attempts, error, traceback, claim) "
    "select id, step, topic, key, input, trace_id, emitted_at, attempts + 1, $3, $4, claim from gone"
)
# What claim_jobs.sql has put aside, of the steps $1, is due again if nothing parked stops its key any more: $2 are the
# steps that a parked job stops. Functions do the same at once; a delete by hand, or another release, doesn't.
RESUME = (
    "update streams.step_job set due_at = clock_timestamp() where id in ("
    "select j.id from streams.step_job j where j.step = any ($1::text[]) and j.due_at = 'infinity' "
    "and (j.step <> all ($2::text[]) "
    "or not exists (select from streams.step_parked p where p.step = j.step and p.key = j.key)) "
    "limit 10000 for update skip locked)"
)
# The stream steps of all processes. Those of this one are told only between two turns of their consumer, $1: whoever
# has its turn knows at its beginning whom the changes are for, and what is committed behind this is for these, too.
KEEP_STREAM_STEPS = (
    "with turn as materialized (select from streams.consumer where name = $1 for update) "
    "insert into streams.step_stream as s (step, stream, group_id, item_id, delay_seconds) "
    "select g.* from (select count(*) from turn) t, "
    "unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::float8[]) as g "
    "on conflict (step) do update set stream = excluded.stream, group_id = excluded.group_id, "
    "item_id = excluded.item_id, delay_seconds = excluded.delay_seconds, seen_at = excluded.seen_at"
)
FORGET_STREAM_STEPS = (
    "delete from streams.step_stream where seen_at < clock_timestamp() - $1 * interval '1 second' returning step"
)
STREAM_STEPS = "select step, stream, group_id, item_id, delay_seconds from streams.step_stream order by step"


class Job(NamedTuple):
    """What a worker has claimed."""

    id: int
    step: str
    topic: str
    key: str | None
    input: str  # JSON
    trace_id: str
    claim: int
    attempts: int  # that failed
    unended: int  # claims of which nobody said what came of them, with this one


class Subscriber(NamedTuple):
    """Which step is to have an event, and how."""

    step: str
    is_fifo: bool
    delay_seconds: float


class Wanted(NamedTuple):
    """What a worker asks for of one step."""

    step: str
    room: int
    limit: int | None  # of those that are claimed in the whole cluster
    stops_when_parked: bool
    after_key: str | None


async def put_event(
    lend: Lend, topic: str, text: str, key: str, trace_id: str, subscribers: Sequence[Subscriber]
) -> None:
    """A job for each subscriber, with the JSON `text`; of those that keep order after others of the same `key`."""
    await ask(
        lend,
        True,
        PUT_EVENT,
        topic,
        text,
        trace_id,
        [one.step for one in subscribers],
        [key if one.is_fifo else None for one in subscribers],
        [one.delay_seconds for one in subscribers],
    )


async def end(lend: Lend, job: Job) -> None:
    """The job is done, if and when the transaction commits. Raises ClaimLostError: then it may not commit."""
    if not await ask(lend, True, END, job.id, job.claim):
        raise ClaimLostError(
            f"job {job.id} of step {job.step} is not this worker's any more: it took longer than its lease, which "
            "could not be renewed, or somebody dropped it"
        )


class Claimed(NamedTuple):
    """What came of a claim."""

    jobs: Sequence[Job]  # the oldest, in their order
    after_keys: dict[str, str]  # of steps: where the look at their keys ended, to go on from
    has_more: bool  # whether it was cut short, or put some aside: there may be others


async def claim(connection: Connection, wanted: Sequence[Wanted], total: int, lease_seconds: float) -> Claimed:
    """See claim_jobs.sql."""
    rows = await connection.fetch(
        CLAIM,
        [one.step for one in wanted],
        [one.room for one in wanted],
        [one.limit for one in wanted],
        [one.stops_when_parked for one in wanted],
        [one.after_key for one in wanted],
        total,
        lease_seconds,
    )
    found = sorted(Job(*row) for row in rows if row["id"] is not None)
    ends = {row["step"]: row["key"] for row in rows if row["id"] is None and row["step"] is not None}
    return Claimed(found, ends, any(row["step"] is None for row in rows))
