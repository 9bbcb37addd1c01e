"""State steps: each change of what steps keep by context.state, with the transaction that made it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.integration.step_fixtures import StepKit, StepTemplate, open_steps, step
from tests.integration.work_fixtures import WorkKit
from tidelog.errors import DeclarationError, NotSupportedError, OperationInvalidError
from tidelog.model.step import Step

OK = {"status": 200}


@pytest.fixture
async def kit(step_template: StepTemplate) -> AsyncIterator[StepKit]:
    async with open_steps(step_template, pool_size_max=10) as kit:
        yield kit


class Changes:
    """What state steps were told."""

    def __init__(self) -> None:
        self.all: list[Any] = []
        self.traces: set[str] = set()

    def step(self, **config: Any) -> Step:
        async def handler(input: Any, context: Any) -> None:
            assert input.keys() == {"type", "group_id", "item_id", "old_value", "new_value"}
            assert input["type"] == "state"
            self.all.append(tuple(input[name] for name in ("group_id", "item_id", "old_value", "new_value")))
            self.traces.add(context.trace_id)

        return Step.of_reaction({"type": "state", "name": "Watch", **config}, handler)

    def check_chain(self) -> None:
        """Of one key: each begins with what the one before ended with."""
        before = None
        for _group, _key, old, new in self.all:
            assert old == before
            before = new


@pytest.mark.parametrize("transaction", [True, False])
async def test_each_change_of_the_state_is_told_as_it_was_and_as_it_is(kit: StepKit, transaction: bool) -> None:
    """In their order, whichever operation it was, awaited or not; a delete of nothing isn't told."""
    changes = Changes()

    async def handler(req: Any, context: Any) -> Any:
        state = context.state
        assert await state.set("g", "a", {"n": 1}) == {"n": 1}
        state.set("g", "a", [1])
        assert await state.set("g", "a", None) is None
        assert await state.update("g", "b", [{"type": "increment", "path": "n", "by": 2}]) == {"n": 2}
        assert await state.delete("g", "a") is None
        assert await state.delete("g", "nobody") is None
        assert await state.list_groups() == ["g"]
        await state.set("h", "c", "text")
        await state.clear("h")
        await state.clear("nothing")
        return {"status": 200, "body": context.trace_id}

    work = WorkKit(kit, step(handler, transaction=transaction), changes.step())
    async with work.working(), kit.client(*work.steps) as client:
        answer = await client.post("/run")
        assert answer.status_code == 200, answer.text
        await work.until_done()
    told: dict[str, list[Any]] = {}
    for _group, key, old, new in changes.all:
        told.setdefault(key, []).append((old, new))
    assert told == {
        "a": [(None, {"n": 1}), ({"n": 1}, [1]), ([1], None), (None, None)],
        "b": [(None, {"n": 2})],
        "c": [(None, "text"), ("text", None)],
    }
    assert changes.traces == {answer.text}


async def test_a_change_that_is_rolled_back_is_told_to_nobody(kit: StepKit) -> None:
    changes = Changes()

    async def handler(req: Any, context: Any) -> Any:
        await context.state.set("g", "a", req["body"])
        if req["body"] == "lost":
            raise RuntimeError("as told")
        return OK

    work = WorkKit(kit, step(handler), changes.step())
    async with work.working(), kit.client(*work.steps) as client:
        for value, status in (("lost", 500), ("kept", 200)):
            assert (await client.post("/run", json=value)).status_code == status
        await work.until_done()
    assert changes.all == [("g", "a", None, "kept")]


@pytest.mark.parametrize("transaction", [True, False])
@pytest.mark.parametrize("operation", ["set", "update"])
async def test_changes_at_the_same_time_are_a_chain(kit: StepKit, transaction: bool, operation: str) -> None:
    """Each begins with what the one before ended with, and they are told in this order."""
    changes = Changes()
    at_once = 30

    async def handler(req: Any, context: Any) -> Any:
        if operation == "set":
            await context.state.set("g", "a", {"by": req["body"]})
        else:
            await context.state.update("g", "a", [{"type": "increment", "path": "n", "by": 1}])
        return OK

    work = WorkKit(kit, step(handler, transaction=transaction), changes.step())
    async with work.working(processes=2), kit.client(*work.steps) as client:
        answers = await asyncio.gather(*(client.post("/run", json=number) for number in range(at_once)))
        assert {answer.status_code for answer in answers} == {200}
        await work.until_done()
    changes.check_chain()
    assert len(changes.all) == at_once
    if operation == "update":
        assert changes.all[-1][-1] == {"n": at_once}


async def test_a_state_step_may_be_for_one_group_or_one_key(kit: StepKit) -> None:
    """Also of a group that is cleared; and nothing waits for a step that isn't for it."""
    of_group, of_key, of_other = Changes(), Changes(), Changes()

    async def handler(req: Any, context: Any) -> Any:
        for group in ("g", "h"):
            for key in ("a", "b"):
                await context.state.set(group, key, 1)
        await context.state.clear("g")
        return OK

    work = WorkKit(
        kit,
        step(handler),
        of_group.step(name="Group", groupId="g"),
        of_key.step(name="Key", groupId="g", itemId="b"),
        of_other.step(name="Other", groupId="none"),
    )
    async with work.working(), kit.client(*work.steps) as client:
        assert (await client.post("/run")).status_code == 200
        await work.until_done()
    assert sorted(map(str, of_group.all)) == sorted(
        map(str, [("g", key, old, new) for key in ("a", "b") for old, new in ((None, 1), (1, None))])
    )
    assert of_key.all == [("g", "b", None, 1), ("g", "b", 1, None)]
    assert of_other.all == []


async def test_a_group_whose_id_is_a_number_is_told_as_its_text(kit: StepKit) -> None:
    """As it is stored; whichever operation it was."""
    changes = Changes()

    async def handler(req: Any, context: Any) -> Any:
        state = context.state
        await state.set(5, "k", 1)
        await state.update(5, "o", [{"type": "increment", "path": "n"}])
        await state.exchange(5, "k", lambda before: before + 1)
        await state.replace(5, "k", 3)
        await state.delete(5, "k")
        await state.clear(5)
        return OK

    work = WorkKit(kit, step(handler), changes.step(groupId="5"))
    async with work.working(), kit.client(*work.steps) as client:
        assert (await client.post("/run")).status_code == 200
        await work.until_done()
    assert [(old, new) for _group, key, old, new in changes.all if key == "k"] == [(None, 1), (1, 2), (2, 3), (3, None)]
    assert [(old, new) for _group, key, old, new in changes.all if key == "o"] == [(None, {"n": 1}), ({"n": 1}, None)]


async def test_a_set_gets_through_whoever_else_writes(kit: StepKit) -> None:
    """Also without a transaction, and where the key is made and deleted all the time."""
    changes = Changes()

    async def handler(req: Any, context: Any) -> Any:
        for number in range(20):
            await context.state.set("g", "k", [req["body"], number])
            if number % 5 == 4:
                await context.state.delete("g", "k")
        return OK

    work = WorkKit(kit, step(handler, transaction=False), changes.step())
    async with work.working(), kit.client(*work.steps) as client:
        answers = await asyncio.gather(*(client.post("/run", json=number) for number in range(20)))
        assert {answer.status_code for answer in answers} == {200}
        await work.until_done()
    changes.check_chain()


async def test_what_is_set_is_what_it_was_when_it_was_called(kit: StepKit) -> None:
    """Whether somebody watches or not."""

    async def handler(req: Any, context: Any) -> Any:
        for group in ("watched", "other"):
            value = {"n": 1}
            call = context.state.set(group, "k", value)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            value["n"] = 2
            await call
        return {
            "status": 200,
            "body": [*await context.state.get_group("watched"), *await context.state.get_group("other")],
        }

    work = WorkKit(kit, step(handler), Changes().step(groupId="watched"))
    async with kit.client(*work.steps) as client:
        assert (await client.post("/run")).json() == [{"n": 1}, {"n": 1}]


async def test_a_function_that_is_given_to_exchange_cannot_wait_for_the_context(kit: StepKit) -> None:
    """It would keep the whole process waiting."""

    def handler(req: Any, context: Any) -> Any:
        for calls in (context.state, context.streams.chatMessage):
            with pytest.raises(NotSupportedError, match="read what it needs before"):
                calls.exchange("g", "k", lambda _before, calls=calls: calls.get("g", "other"))
        return OK

    async with kit.client(step(handler)) as client:
        assert (await client.post("/run")).status_code == 200


@pytest.mark.parametrize("key", ["a\0b", "\ud800", "x" * 1025])
@pytest.mark.parametrize("name", ["groupId", "itemId"])
@pytest.mark.parametrize("kind", [{"type": "state"}, {"type": "stream", "streamName": "chatMessage"}])
def test_a_step_is_for_what_can_be_an_id(kind: dict[str, str], name: str, key: str) -> None:
    async def handler(input: Any, context: Any) -> None:
        """Never called."""

    with pytest.raises(DeclarationError, match="which no id is"):
        Step.of_reaction({**kind, "name": "Watch", name: key}, handler)


async def test_a_state_step_that_changes_the_state_ends_by_its_condition(kit: StepKit) -> None:
    """Its own change is a change."""

    async def count(input: Any, context: Any) -> None:
        await context.state.set("g", "n", input["new_value"] + 1)

    async def handler(req: Any, context: Any) -> Any:
        await context.state.set("g", "n", 1)
        return OK

    counting = Step.of_reaction(
        {"type": "state", "name": "Count", "condition": lambda input, context: input["new_value"] < 5}, count
    )
    work = WorkKit(kit, step(handler), counting)
    async with work.working(), kit.client(*work.steps) as client:
        assert (await client.post("/run")).status_code == 200
        await work.until_done()
    assert await kit.query("select value::text from streams.context_state") == ["5"]


async def test_only_an_object_can_be_updated(kit: StepKit) -> None:
    """By what is there, and by what is said; it is the client's fault or the step's, and nothing is stored."""

    async def handler(req: Any, context: Any) -> Any:
        await context.state.set("g", "text", "text")
        for key, operations in (("text", [{"type": "set", "path": "a", "value": 1}]), ("new", [{"type": "nonsense"}])):
            with pytest.raises(OperationInvalidError, match="must be"):
                await context.state.update("g", key, operations)
        return {"status": 200, "body": await context.state.get_group("g")}

    async with kit.client(step(handler)) as client:
        assert (await client.post("/run")).json() == ["text"]
