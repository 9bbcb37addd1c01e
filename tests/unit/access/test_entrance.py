"""A connection's subscriptions while somebody is asked for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest

from tests.harness import eventually
from tidelog.access.authors import AuthorFunctions
from tidelog.access.caller import Caller
from tidelog.access.causes import Causes
from tidelog.access.decisions import Access
from tidelog.access.recheck import ALL
from tidelog.feed.subscription import Subscription
from tidelog.model.change import Topic
from tidelog.model.stream import Stream
from tidelog.runtime.threads import HandlerThreads
from tidelog.web.entrance import ASKED_AT_ONCE_MAX, Entrance

ADA = Caller({"subject": "ada"})


class Door:
    """A connection, of which only its entrance is there; rules answer what a test says, when it says so."""

    def __init__(self, functions: AuthorFunctions, **parts: Any) -> None:
        self.asked: list[asyncio.Future[Any]] = []
        self.told: list[str] = []
        stream = Stream("ruled", can_access=self._ask, **parts)
        access = Access({"ruled": stream}, functions, Causes())
        self.entrance = Entrance(access, ADA, "open", self._note("in"), self._note("denied"), self._note("failed"))

    async def _ask(self, subscription: Any, auth: Any) -> Any:
        self.asked.append(asyncio.get_running_loop().create_future())
        return await self.asked[-1]

    def _note(self, what: str) -> Callable[[Subscription], None]:
        return lambda subscription: self.told.append(f"{what} {subscription.name}")

    def subscribe(self, name: str = "s") -> Subscription:
        subscription = Subscription(name, cast("Any", None), Topic("ruled", "g"))
        self.entrance.ask(subscription)
        return subscription

    async def answer(self, number: int, answer: Any) -> None:
        """Of the so many-th question, when it has been put."""
        await eventually(lambda: len(self.asked) > number)
        if isinstance(answer, Exception):
            self.asked[number].set_exception(answer)
        else:
            self.asked[number].set_result(answer)


@pytest.fixture
async def functions() -> AsyncIterator[AuthorFunctions]:
    functions = AuthorFunctions(HandlerThreads(), 60)
    yield functions
    for task in functions._tasks:
        task.cancel()
    await functions.close()


async def settle(door: Door, *told: str) -> None:
    await eventually(lambda: len(door.told) >= len(told))
    assert door.told == list(told)


async def test_an_answer_of_before_a_right_was_taken_away_lets_nobody_in(functions: AuthorFunctions) -> None:
    """The hint comes while the rule is being asked: it is asked again, and the first answer doesn't count."""
    door = Door(functions)
    door.subscribe()
    await eventually(lambda: door.asked)
    door.entrance.ask_again((ALL,))
    await door.answer(0, True)
    await door.answer(1, False)
    await settle(door, "denied s")


async def test_a_right_that_is_taken_away_ends_what_is_live(functions: AuthorFunctions) -> None:
    """And nothing is told twice."""
    door = Door(functions)
    door.subscribe()
    await door.answer(0, True)
    await settle(door, "in s")
    for number, answer in ((1, True), (2, False)):
        done = door.entrance.ask_again((ALL,))
        await door.answer(number, answer)
        assert done is not None
        await done
    await settle(door, "in s", "denied s")
    assert door.entrance.ask_again((ALL,)) is None


async def test_one_of_which_it_cannot_be_found_out_any_more_ends_otherwise(functions: AuthorFunctions) -> None:
    """Its client may ask again; a first question that fails is a denial like any other."""
    door = Door(functions)
    door.subscribe("live")
    await door.answer(0, True)
    await settle(door, "in live")
    door.entrance.ask_again((ALL,))
    await door.answer(1, ValueError())
    await settle(door, "in live", "failed live")
    door.subscribe("new")
    await door.answer(2, ValueError())
    await settle(door, "in live", "failed live", "denied new")


@pytest.mark.parametrize("answer", [True, False])
async def test_one_that_ended_while_it_was_asked_for_is_neither_let_in_nor_denied(
    functions: AuthorFunctions, answer: bool
) -> None:
    """Its name may be another's by then."""
    door = Door(functions)
    first = door.subscribe("first")
    await eventually(lambda: door.asked)
    door.entrance.end(first)
    door.subscribe("second")
    await door.answer(0, answer)
    await door.answer(1, True)
    await settle(door, "in second")


async def test_a_connection_asks_for_few_at_once(functions: AuthorFunctions) -> None:
    """A client's thousand joins are not a thousand questions; those that it takes back are none."""
    door = Door(functions)
    subscriptions = [door.subscribe(str(number)) for number in range(100)]
    await eventually(lambda: len(door.asked) == ASKED_AT_ONCE_MAX)
    for subscription in subscriptions[ASKED_AT_ONCE_MAX:]:
        door.entrance.end(subscription)
    for number in range(ASKED_AT_ONCE_MAX):
        await door.answer(number, True)
    await settle(door, *(f"in {number}" for number in range(ASKED_AT_ONCE_MAX)))
    assert len(door.asked) == ASKED_AT_ONCE_MAX


async def test_who_goes_while_it_is_told_to_have_joined_is_told_to_have_left(functions: AuthorFunctions) -> None:
    """What an author's function began, it may end: it is not broken off."""
    told: list[str] = []
    joining = asyncio.Event()

    async def on_join(_: Any) -> None:
        told.append("join begins")
        await joining.wait()
        told.append("join ends")

    door = Door(functions, on_join=on_join, on_leave=lambda _: told.append("leave"))
    door.subscribe()
    await door.answer(0, True)
    await eventually(lambda: told)
    door.entrance.close()
    joining.set()
    await eventually(lambda: len(told) == 3)
    assert told == ["join begins", "join ends", "leave"]
    assert door.told == []
