"""Middleware of steps: inside the transaction, with the step's limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.integration.step_fixtures import StepKit, StepTemplate, open_steps, step


@pytest.fixture
async def kit(step_template: StepTemplate) -> AsyncIterator[StepKit]:
    async with open_steps(step_template) as kit:
        yield kit


async def handler(req: dict[str, Any], context: Any) -> Any:
    await context.streams.chatMessage.set("g", "of the handler", {"text": "stored"})
    return {"status": 200, "body": "done"}


async def stores(req: dict[str, Any], context: Any, next_fn: Any) -> Any:
    await context.streams.chatMessage.set("g", "before", {"text": "stored"})
    return await next_fn()


async def post(kit: StepKit, *middleware: Any, **parts: Any) -> int:
    async with kit.client(step(parts.pop("handler", handler), middleware=middleware, **parts)) as client:
        return (await client.post("/run")).status_code


async def test_what_middleware_stores_is_committed_with_the_step(kit: StepKit) -> None:
    """Or not at all, if the handler fails."""

    async def fails(req: dict[str, Any], context: Any) -> Any:
        raise ValueError

    assert await post(kit, stores, handler=fails) == 500
    assert await kit.ids() == []
    assert await post(kit, stores) == 200
    assert await kit.ids() == ["before", "of the handler"]


async def test_middleware_that_fails_after_the_handler_rolls_it_back(kit: StepKit) -> None:
    """It saw the answer, and would not have it sent."""

    async def objects(req: dict[str, Any], context: Any, next_fn: Any) -> Any:
        await next_fn()
        raise ValueError

    assert await post(kit, objects) == 500
    assert await kit.ids() == []


async def test_middleware_that_answers_itself_keeps_the_handler_from_running(kit: StepKit) -> None:
    """As one does that refuses."""

    async def refuses(req: dict[str, Any], context: Any, next_fn: Any) -> Any:
        return {"status": 403}

    assert await post(kit, refuses, stores) == 403
    assert await kit.ids() == []


async def test_middleware_goes_on_once_and_must_answer(kit: StepKit) -> None:
    """Twice would run the step twice in one transaction; nothing is no answer."""

    async def twice(req: dict[str, Any], context: Any, next_fn: Any) -> Any:
        await next_fn()
        return await next_fn()

    async def forgets(req: dict[str, Any], context: Any, next_fn: Any) -> None:
        await next_fn()

    assert await post(kit, twice) == 500
    assert await post(kit, forgets) == 500
    assert await kit.ids() == []


async def test_middleware_has_the_steps_time(kit: StepKit) -> None:
    """One that hangs is broken off with it."""

    async def hangs(req: dict[str, Any], context: Any, next_fn: Any) -> Any:
        await asyncio.sleep(3600)

    assert await post(kit, hangs, timeout_seconds=0.1) == 504
