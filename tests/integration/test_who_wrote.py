"""Who wrote each change, in the history: the step with its trace, or the role that logged in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from tests.integration.step_fixtures import StepKit, StepTemplate, open_steps
from tidelog.store.log import Numbering
from tidelog.store.origin import PART_LENGTH_MAX, Origin

HISTORY = "select id, by_step, trace_id, by_user, by_role from streams.chat_message_history order by position, seq"


@pytest.fixture
async def kit(step_template: StepTemplate) -> AsyncIterator[StepKit]:
    async with open_steps(step_template) as kit:
        yield kit


async def history(kit: StepKit) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(kit.url)
    try:
        await (await Numbering.load(connection)).advance(connection)
        return [tuple(row) for row in await connection.fetch(HISTORY)]
    finally:
        await connection.close()


@pytest.mark.parametrize("transaction", [True, False])
async def test_the_history_names_the_step_and_its_trace(kit: StepKit, transaction: bool) -> None:
    """With a transaction or without; and of what SQL wrote in between, on no step's account, the role."""
    traces = []

    async def handler(req: dict[str, Any], context: Any) -> Any:
        traces.append(context.trace_id)
        await context.streams.chatMessage.set("general", req["body"]["id"], {"text": "hi"})
        return {"status": 200, "body": None}

    await kit.post(handler, json={"id": "1"}, transaction=transaction)
    await kit.query("insert into streams.chat_message (group_id, id, data) values ('general', 'sql', '{}') returning 1")
    await kit.post(handler, json={"id": "2"}, transaction=transaction)
    role = (await kit.query("select session_user::text"))[0]
    assert await history(kit) == [
        ("1", "Run", traces[0], None, role),
        ("sql", None, None, None, role),
        ("2", "Run", traces[1], None, role),
    ]


async def test_what_a_step_writes_by_sql_is_its_own_too(kit: StepKit) -> None:
    """Through context.db, in the transaction of the step."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        from sqlalchemy import text

        await context.db.execute(text("insert into streams.chat_message (group_id, id, data) values ('g', '1', '{}')"))
        return {"status": 200, "body": None}

    await kit.post(handler)
    assert [row[:2] for row in await history(kit)] == [("1", "Run")]


@pytest.mark.parametrize(
    "subject",
    ["ada", "o'hara", "x'; drop table streams.commit; --", "back\\slash", "a\x1fb", "nul\0", "ü" * 1000, "\ud800"],
)
async def test_no_name_of_a_user_is_more_than_a_name(kit: StepKit, subject: str) -> None:
    """It comes from outside, and goes into BEGIN."""
    connection = await asyncpg.connect(kit.url)
    try:
        await connection.execute(f"begin; set local tidelog.origin = {Origin('Step', 'trace', subject).setting}")
        origin = await connection.fetchval("select current_setting('tidelog.origin')")
        step, trace, told = origin.split("\x1f")
        assert (step, trace) == ("Step", "trace")
        assert len(told) <= PART_LENGTH_MAX
        assert told == subject or not subject.isprintable() or "\\" in subject or len(subject) > PART_LENGTH_MAX
    finally:
        await connection.close()
