"""Steps that react to events: what is emitted is handled, once, by whom it is for, as it was said."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import BaseModel, Field
from sqlalchemy import text

from tests.harness import eventually
from tests.integration.step_fixtures import StepKit, StepTemplate, open_steps, step
from tests.integration.work_fixtures import WorkKit, emitting, event_step
from tidelog.errors import CommitUnknownError
from tidelog.queue import workers
from tidelog.queue.running import JobInvocation
from tidelog.runtime.runner import StepRunner
from tidelog.store.jobs import Job
from tidelog.store.pool import Pool
from tidelog.store.undeclared import STEPS_UNKNOWN, warn_of_unknown_steps


@pytest.fixture
async def kit(step_template: StepTemplate) -> AsyncIterator[StepKit]:
    async with open_steps(step_template, pool_size_max=10) as kit:
        yield kit


class Seen:
    """A handler's memory."""

    def __init__(self) -> None:
        self.inputs: list[Any] = []
        self.came = asyncio.Event()

    async def note(self, input: Any, context: Any) -> None:
        self.inputs.append(input)
        self.came.set()


async def store(input: Any, context: Any) -> None:
    """A handler that writes an item."""
    await context.streams.chatMessage.set("general", input["id"], {"text": context.trace_id})


async def test_what_a_step_emits_is_handled_once_it_has_committed(kit: StepKit) -> None:
    """The handler has the data, the emitting step's trace id, streams and a transaction; and nobody's auth."""
    known: list[Any] = []

    async def handler(input: Any, context: Any) -> None:
        known.append((input, context.trace_id, context.auth))
        await store(input, context)

    work = WorkKit(kit, emitting("made"), event_step(handler, "made"))
    async with work.working():
        trace_id = await work.emit({"topic": "made", "data": {"id": "m1"}})
        await work.until_done()
    assert known == [({"id": "m1"}, trace_id, None)]
    assert await kit.ids() == ["m1"]


async def test_what_a_step_emits_before_it_fails_is_never_handled(kit: StepKit) -> None:
    """An event is part of the step's transaction."""
    seen = Seen()
    work = WorkKit(kit, emitting("made"), event_step(seen.note, "made"))
    async with work.working():
        await work.emit({"topic": "made", "data": 1}, fails=True, status=500)
        await work.emit({"topic": "made", "data": 2})
        await work.until_done()
    assert seen.inputs == [2]


async def test_every_step_that_subscribes_has_the_event_and_no_other(kit: StepKit) -> None:
    one, two, other = Seen(), Seen(), Seen()
    work = WorkKit(
        kit,
        emitting("made", "gone", "unheard"),
        event_step(one.note, "made", name="One"),
        event_step(two.note, "gone", "made", name="Two"),
        event_step(other.note, "gone", name="Other"),
    )
    async with work.working():
        await work.emit({"topic": "made", "data": 1}, {"topic": "gone", "data": 2}, {"topic": "unheard", "data": 3})
        await work.until_done()
    assert (one.inputs, sorted(two.inputs), other.inputs) == ([1], [1, 2], [2])


async def test_an_undeclared_topic_is_an_error_that_names_the_declared_ones(kit: StepKit) -> None:
    """Declared as a text, or as Motia's dict for pictures."""

    async def handler(req: Any, context: Any) -> Any:
        await context.emit({"topic": "mode", "data": {}})

    failed: list[BaseException] = []

    async def outer(req: Any, context: Any) -> Any:
        try:
            await handler(req, context)
        except Exception as error:
            failed.append(error)
            raise

    answer = await kit.post(outer, emits=("made", "gone"))
    assert answer.status_code == 500
    assert getattr(failed[0], "code", "") == "topic_undeclared"
    assert str(failed[0]).endswith("emits 'mode', which is not in its config's `emits`: there are made, gone")


@pytest.mark.parametrize(
    "event",
    [None, {}, {"data": 1}, {"topic": "made", "data": float("nan")}, {"topic": "made", "messagegroupid": "a"}],
    ids=repr,
)
async def test_what_is_no_event_is_refused(kit: StepKit, event: Any) -> None:
    failed: list[Any] = []

    async def handler(req: Any, context: Any) -> Any:
        try:
            await context.emit(event)
        except Exception as error:
            failed.append(error)

    await kit.post(handler, emits=("made",))
    assert [error.code for error in failed] == ["emit_invalid"]


async def test_an_event_that_is_not_awaited_goes_with_the_commit(kit: StepKit) -> None:
    """As Motia's authors write it; also in a plain handler, where the call waits."""
    seen = Seen()

    async def forgetful(req: Any, context: Any) -> Any:
        context.emit({"topic": "made", "data": "async"})
        return {"status": 200}

    def plain(req: Any, context: Any) -> Any:
        context.emit({"topic": "made", "data": "plain"})
        return {"status": 200}

    work = WorkKit(kit, event_step(seen.note, "made"))
    steps = (step(forgetful, emits=("made",)), step(plain, name="Plain", path="/plain", emits=("made",)), *work.steps)
    async with work.working(), kit.client(*steps) as client:
        for path in ("/run", "/plain"):
            assert (await client.post(path)).status_code == 200
        await work.until_done()
    assert sorted(seen.inputs) == ["async", "plain"]


class Order(BaseModel):
    id: str = Field(min_length=2)
    count: int = 1


async def test_the_input_schema_makes_the_input_and_what_does_not_fit_is_parked_at_once(kit: StepKit) -> None:
    """A class fills in its defaults. Trying again would not mend what doesn't fit."""
    seen = Seen()
    work = WorkKit(kit, emitting("made"), event_step(seen.note, "made", input=Order))
    async with work.working():
        await work.emit({"topic": "made", "data": {"id": "o1"}}, {"topic": "made", "data": {"id": "o"}})
        await work.until_parked()
        await work.until_done()
    assert seen.inputs == [{"id": "o1", "count": 1}]
    (error,) = await kit.query("select error from streams.step_parked")
    assert error.startswith("InputInvalidError: the data of event made does not fit the step's `input`: /id: ")


async def test_what_a_handler_wrote_goes_with_its_failure_and_it_is_tried_again(kit: StepKit) -> None:
    tries: list[int] = []

    async def handler(input: Any, context: Any) -> None:
        tries.append(1)
        await context.streams.chatMessage.set("general", f"try-{len(tries)}", {"text": "a"})
        if len(tries) == 1:
            raise RuntimeError("the first time")

    work = WorkKit(kit, emitting("made"), event_step(handler, "made"))
    async with work.working():
        await work.emit({"topic": "made"})
        await work.until_done()
    assert await kit.ids() == ["try-2"]


async def test_a_job_that_always_fails_is_parked_with_all_that_is_to_know_and_may_be_retried_or_dropped(
    kit: StepKit,
) -> None:
    """By SQL. What stands in it: the input, the error, where it stood, how often it was tried."""
    is_mended = False

    async def handler(input: Any, context: Any) -> None:
        if not is_mended:
            raise RuntimeError("broken\0")

    work = WorkKit(kit, emitting("made"), event_step(handler, "made", queue={"maxRetries": 0}))
    async with work.working():
        await work.emit({"topic": "made", "data": {"id": 1}})
        await work.emit({"topic": "made", "data": {"id": 2}})
        await work.until_parked(2)
        rows = await kit.query(
            "select row_to_json(p)::jsonb::text from streams.step_parked p where input ->> 'id' = '1'"
        )
        assert '"error": "RuntimeError: broken\\\\0"' in rows[0]
        assert "test_work.py" in rows[0] and '"attempts": 1' in rows[0] and '"step": "React"' in rows[0]
        is_mended = True
        (first, second) = await kit.query("select id from streams.step_parked order by id")
        assert await kit.query("select streams.drop_parked($1)", first) == [1]
        assert await kit.query("select streams.retry_parked(step_name => 'React')") == [1]
        await work.until_done()
        assert await kit.query("select count(*) from streams.step_parked") == [0]
    assert second > first


async def test_events_of_one_message_group_are_handled_in_order_one_at_a_time(kit: StepKit) -> None:
    """By two processes with many workers; groups go side by side. One that is retried keeps its group waiting."""
    order: dict[str, list[int]] = {"a": [], "b": [], "c": []}
    busy: set[str] = set()
    together = 0
    failed: set[str] = set()

    async def handler(input: Any, context: Any) -> None:
        nonlocal together
        group, number = input
        assert group not in busy
        busy.add(group)
        together = max(together, len(busy))
        try:
            await context.streams.chatMessage.get("general", "x")
            await asyncio.sleep(0)
            if number == 3 and group not in failed:
                failed.add(group)
                raise RuntimeError("once")
        finally:
            busy.discard(group)
        order[group].append(number)

    work = WorkKit(kit, emitting("made"), event_step(handler, "made", queue={"type": "fifo"}))
    events = [
        {"topic": "made", "data": [group, number], "messageGroupId": group} for number in range(10) for group in order
    ]
    await work.emit(*events)
    async with work.working(processes=2):
        await work.until_done()
    assert order == {group: list(range(10)) for group in "abc"}
    assert together > 1


@pytest.mark.parametrize("when_parked", ["continue", "stop"])
async def test_behind_a_parked_event_its_group_goes_on_or_stops_as_the_step_says(
    kit: StepKit, when_parked: str
) -> None:
    seen: list[Any] = []

    async def handler(input: Any, context: Any) -> None:
        if input == "poison":
            raise RuntimeError("poisoned")
        seen.append(input)

    queue = {"type": "fifo", "maxRetries": 0, "whenParked": when_parked}
    work = WorkKit(kit, emitting("made"), event_step(handler, "made", queue=queue))
    async with work.working():
        await work.emit(
            {"topic": "made", "data": "poison", "messageGroupId": "a"},
            {"topic": "made", "data": "behind", "messageGroupId": "a"},
            {"topic": "made", "data": "beside", "messageGroupId": "b"},
        )
        await work.until_parked()
        if when_parked == "stop":
            await work.until("select count(*) = 1 from streams.step_job")
            assert seen == ["beside"]
            await kit.query("select streams.drop_parked(step_name => 'React')")
        await work.until_done()
    assert sorted(seen) == ["behind", "beside"]


async def test_a_flood_of_one_topic_leaves_room_for_the_others(kit: StepKit) -> None:
    """Its handlers hang; those of another topic run meanwhile."""
    hanging = asyncio.Event()
    seen = Seen()

    async def hang(input: Any, context: Any) -> None:
        await hanging.wait()

    work = WorkKit(
        kit, emitting("flood", "quiet"), event_step(hang, "flood", name="Hang"), event_step(seen.note, "quiet")
    )
    async with work.working(at_once_max=3):
        await work.emit(*({"topic": "flood"} for _ in range(50)))
        await work.until("select count(*) >= 1 from streams.step_job where is_claimed")
        await work.emit({"topic": "quiet", "data": 1})
        await asyncio.wait_for(seen.came.wait(), 60)
        hanging.set()
        await work.until_done()


async def test_no_more_of_a_step_run_at_a_time_than_its_concurrency_in_all_processes(kit: StepKit) -> None:
    running = most = 0

    async def handler(input: Any, context: Any) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await context.streams.chatMessage.set("general", str(input), {"text": "a"})
        await asyncio.sleep(0.01)
        running -= 1

    work = WorkKit(kit, emitting("made"), event_step(handler, "made", queue={"concurrency": 2}))
    await work.emit(*({"topic": "made", "data": number} for number in range(20)))
    async with work.working(processes=2):
        await work.until_done()
    assert most == 2


async def test_a_handler_without_a_transaction_has_its_writes_seen_at_once(kit: StepKit) -> None:
    written, go_on = asyncio.Event(), asyncio.Event()

    async def handler(input: Any, context: Any) -> None:
        await context.streams.chatMessage.set("general", "m1", {"text": "a"})
        written.set()
        await go_on.wait()

    work = WorkKit(kit, emitting("made"), event_step(handler, "made", transaction=False))
    async with work.working():
        await work.emit({"topic": "made"})
        await asyncio.wait_for(written.wait(), 60)
        assert await kit.ids() == ["m1"]
        go_on.set()
        await work.until_done()


async def test_a_condition_decides_whether_an_event_is_handled(kit: StepKit) -> None:
    """Also a handler that leaves out its context. What is not handled is done."""
    seen: list[Any] = []

    async def handler(input: Any) -> None:
        seen.append(input)

    work = WorkKit(kit, emitting("made"), event_step(handler, "made", condition=lambda input, context: input > 1))
    async with work.working():
        await work.emit(*({"topic": "made", "data": number} for number in (1, 2, 3)))
        await work.until_done()
    assert sorted(seen) == [2, 3]


async def test_a_handler_over_its_time_is_broken_off_and_tried_again(kit: StepKit) -> None:
    """`visibilityTimeout` is its time, unless the step says another."""
    tries: list[int] = []

    async def handler(input: Any, context: Any) -> None:
        tries.append(1)
        await context.streams.chatMessage.set("general", f"m{len(tries)}", {"text": "a"})
        if len(tries) == 1:
            await asyncio.Event().wait()

    work = WorkKit(kit, emitting("made"), event_step(handler, "made", queue={"visibilityTimeout": 1}))
    async with work.working():
        await work.emit({"topic": "made"})
        await work.until_done()
    assert await kit.ids() == ["m2"]


async def test_a_worker_that_has_lost_its_job_rolls_back(kit: StepKit) -> None:
    """Somebody dropped the job, or has claimed it, while its handler ran: what that wrote is not stored."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def handler(input: Any, context: Any) -> None:
        await context.streams.chatMessage.set("general", "m1", {"text": "a"})
        begun.set()
        await go_on.wait()

    work = WorkKit(kit, emitting("made"), event_step(handler, "made"))
    async with work.working() as running:
        await work.emit({"topic": "made"})
        await asyncio.wait_for(begun.wait(), 60)
        await kit.query("delete from streams.step_job returning id")
        go_on.set()
        async with asyncio.timeout(60):
            while not running.is_idle:  # noqa: ASYNC110 - it sends no signal
                await asyncio.sleep(0.01)
    assert await kit.ids() == []


async def test_what_runs_when_the_process_stops_is_ended_or_left_to_others_at_once(
    kit: StepKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that takes no heed of the stop is cancelled and rolled back, and due again without a failed attempt."""
    monkeypatch.setattr(workers, "STOP_SECONDS", 0.1)
    begun = asyncio.Event()

    async def handler(input: Any, context: Any) -> None:
        await context.streams.chatMessage.set("general", "m1", {"text": "a"})
        begun.set()
        await asyncio.Event().wait()

    work = WorkKit(kit, emitting("made"), event_step(handler, "made"))
    async with work.working():
        await work.emit({"topic": "made"})
        await asyncio.wait_for(begun.wait(), 60)
    assert await kit.ids() == []
    assert await kit.query("select not is_claimed and due_at <= now() and attempts = 0 from streams.step_job") == [True]


async def test_a_lease_that_is_over_is_another_workers_and_the_first_rolls_back(
    kit: StepKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a worker that froze: it wakes up when the job is done, and what it did is not stored beside."""
    monkeypatch.setattr(workers, "LEASE_SECONDS", 0.2)
    monkeypatch.setattr(workers, "RENEW_SECONDS", 3600)
    frozen, thaw = asyncio.Event(), asyncio.Event()

    async def handler(input: Any, context: Any) -> None:
        number = len(runs)
        runs.append(number)
        await context.streams.chatMessage.set("general", f"m{number}", {"text": "a"})
        if number == 0:
            frozen.set()
            await thaw.wait()

    runs: list[int] = []
    work = WorkKit(kit, emitting("made"), event_step(handler, "made"))
    async with work.working() as running:
        await work.emit({"topic": "made"})
        await asyncio.wait_for(frozen.wait(), 60)
        async with work.working():
            await work.until_done()
        thaw.set()
        async with asyncio.timeout(60):
            while not running.is_idle:  # noqa: ASYNC110 - it sends no signal
                await asyncio.sleep(0.01)
    assert len(runs) >= 2 and "m0" not in await kit.ids()
    assert len(await kit.ids()) == 1


class UnspeakableError(Exception):
    """Whose text can't be made."""

    def __str__(self) -> str:
        raise ValueError


class NoException(BaseException):
    """As some libraries have to get past `except Exception`."""


@pytest.mark.parametrize("raised", [UnspeakableError(), NoException(), KeyboardInterrupt(), SystemExit(3), "cancel"])
async def test_whatever_a_handler_raises_is_an_attempt_that_failed(kit: StepKit, raised: Any) -> None:
    """It neither ends the process, nor looks as if its worker had died."""

    async def handler(input: Any, context: Any) -> None:
        if raised != "cancel":
            raise raised
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    work = WorkKit(kit, emitting("made"), event_step(handler, "made", queue={"maxRetries": 0}))
    async with work.working() as workers:
        await work.emit({"topic": "made"})
        await work.until_parked()
        assert workers.trouble is None
    assert await kit.query("select attempts from streams.step_parked where error not like 'workers_died%'") == [1]


async def test_a_run_that_is_cancelled_in_its_commit_stays_in_doubt_though_it_is_cancelled_again(kit: StepKit) -> None:
    """As at the end of a process that doesn't wait: whoever answers must not say that nothing was stored."""
    await kit.query("create table slow (id int)")
    await kit.query(
        "create function slowly() returns trigger language plpgsql as "
        "$$ begin perform pg_sleep(600); return null; end $$"
    )
    await kit.query(
        "create constraint trigger slowly after insert on slow deferrable initially deferred "
        "for each row execute function slowly()"
    )

    async def handler(input: Any, context: Any) -> None:
        await context.db.execute(text("insert into slow values (1)"))

    step = event_step(handler, "made")
    invocation = JobInvocation(step, Job(1, step.name, "made", None, "null", "trace", 1, 0, 1))
    invocation.ending = None
    running = asyncio.create_task(StepRunner(step, WorkKit(kit, step).runtime).run(invocation))
    committing = (
        "select count(*) from pg_stat_activity "
        "where datname = current_database() and query = 'COMMIT' and state = 'active'"
    )
    await eventually(lambda: kit.query(f"{committing} having count(*) = 1"))
    running.cancel()
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError) as cancelled:
        await running
    assert isinstance(cancelled.value.__cause__, CommitUnknownError)


async def test_a_run_that_is_cancelled_behind_its_commit_is_stored_and_nobody_says_that_it_is_not(
    kit: StepKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection is given back yet: that may take a moment, in which a server's stop ends."""
    giving_back = asyncio.Event()
    check_in = Pool.check_in

    async def slowly(pool: Pool, lent: Any) -> None:
        if not giving_back.is_set():
            giving_back.set()
            await asyncio.sleep(3600)
        await check_in(pool, lent)

    async def handler(input: Any, context: Any) -> None:
        await context.streams.chatMessage.set("g", "1", {"text": "hi"})

    step = event_step(handler, "made")
    invocation = JobInvocation(step, Job(1, step.name, "made", None, "null", "trace", 1, 0, 1))
    invocation.ending = None
    with monkeypatch.context() as patch:
        patch.setattr(Pool, "check_in", slowly)
        running = asyncio.create_task(StepRunner(step, WorkKit(kit, step).runtime).run(invocation))
        await giving_back.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError) as cancelled:
            await running
    assert await kit.ids() == ["1"]
    assert isinstance(cancelled.value.__cause__, CommitUnknownError)


async def test_a_job_whose_workers_always_die_is_parked(kit: StepKit) -> None:
    """It may be what kills them: a crash says of itself nothing that could be counted as an attempt."""
    seen = Seen()
    work = WorkKit(kit, emitting("made"), event_step(seen.note, "made"))
    await work.emit({"topic": "made"})
    await kit.query("update streams.step_job set unended = 10, is_claimed = true, claim = 10 returning 1")
    async with work.working():
        await work.until_parked()
    assert seen.inputs == []
    (error,) = await kit.query("select error from streams.step_parked")
    assert error == "workers_died: 10 workers in a row ended before this job did"


async def test_jobs_of_steps_that_no_file_has_are_told_of_at_the_start(
    kit: StepKit, caplog: pytest.LogCaptureFixture
) -> None:
    """As of a step that was renamed; with what mends it. Their number costs nothing, nor do those of known steps."""
    insert = "insert into streams.step_job (step, topic, key, input, trace_id) select $1, 't', $2, '{}', 'x'"
    for name, key in (("Known", None), ("Known", "k"), ("Old's", None), ("Old's", "k"), ("Gone", "k")):
        await kit.query(f"{insert} from generate_series(1, 2000)", name, key)
    connection = await kit.database.connect()
    await warn_of_unknown_steps(connection, ["Known", "Other"])
    told = [record.getMessage() for record in caplog.records if "jobs wait" in record.getMessage()]
    assert [line.split(",")[0] for line in told] == ["jobs wait for the step Gone", "jobs wait for the step Old's"]
    assert "set step = 'NEW' where step = 'Old''s'" in told[1]
    await connection.execute("vacuum analyze streams.step_job")
    explain = f"explain (analyze, buffers, format json) {STEPS_UNKNOWN}"
    (plan,) = json.loads(await connection.fetchval(explain, ["Known"]))
    assert plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"] < 50, plan
    await connection.close()
