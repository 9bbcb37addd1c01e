"""Who may have which stream: rules, what stands for them, and what happens when they fail."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import pytest

from tests.harness import eventually
from tidelog.access.authentication import Authentication, by_function
from tidelog.access.authors import AuthorFunctions
from tidelog.access.caller import ANYBODY, Caller
from tidelog.access.causes import Causes
from tidelog.access.decisions import Access, Mode, Wish
from tidelog.access.recheck import ALL, HINTS_MAX, Hint, Recheck
from tidelog.errors import AuthenticationUnavailableError, UnauthorizedError
from tidelog.model.rule import Function
from tidelog.model.stream import Stream
from tidelog.runtime.threads import HandlerThreads

ADA = Caller({"subject": "ada"})
LIMIT_SECONDS = 0.05  # of functions that hang; the others have time, on whatever machine

Make = Callable[..., Access]


@pytest.fixture
def limit_seconds() -> float:
    return 60


hurried = pytest.mark.parametrize("limit_seconds", [LIMIT_SECONDS], ids=["hurried"])


@pytest.fixture
async def functions(limit_seconds: float) -> AsyncIterator[AuthorFunctions]:
    functions = AuthorFunctions(HandlerThreads(), limit_seconds)
    yield functions
    await functions.close()


@pytest.fixture
def make(functions: AuthorFunctions) -> Make:
    """`make(can_access=..., ...)`: access to a stream `ruled` with these functions, and to `plain` without."""

    def make(**parts: Any) -> Access:
        streams = {"ruled": Stream("ruled", **parts), "plain": Stream("plain")}
        return Access(streams, functions, Causes())

    return make


def ruled(group: str = "g", id: str | None = None) -> Wish:
    return Wish("ruled", group, id)


@pytest.mark.parametrize(
    ("mode", "anybody", "ada"), [("open", True, True), ("declared", False, True), ("closed", False, False)]
)
async def test_a_stream_without_a_rule_is_as_the_setting_says(make: Make, mode: Mode, anybody: bool, ada: bool) -> None:
    """Open, for whom the authentication knows, or closed; where no stream has a rule, it is known at once."""
    access = make()
    for caller, may in ((ANYBODY, anybody), (Caller({}), anybody), (ADA, ada)):
        assert access.at_once(caller, "plain", mode) is may
        assert await access.may(caller, Wish("plain", "g"), mode) is may
        assert access.at_once(caller, "nothing", mode) is False
        assert not await access.may(caller, Wish("nothing", "g"), mode)


@pytest.mark.parametrize("mode", ["open", "declared", "closed"])
async def test_a_rule_decides_whatever_the_setting(make: Make, mode: Mode) -> None:
    """It is given the group, the item, the operation, and who asks."""
    seen: list[Any] = []

    def may(subscription: Any, auth: Any) -> bool:
        seen.append((subscription, auth))
        return bool(auth and auth["subject"] == subscription["groupId"])

    access = make(can_access=may)
    assert access.at_once(ADA, "ruled", mode) is None
    assert await access.may(ADA, ruled("ada", "i"), mode)
    assert not await access.may(ADA, ruled("eve"), mode)
    assert not await access.may(ANYBODY, Wish("ruled", "ada", None, "history"), mode)
    assert seen == [
        ({"stream": "ruled", "groupId": "ada", "id": "i", "operation": "subscribe"}, {"subject": "ada"}),
        ({"stream": "ruled", "groupId": "eve", "operation": "subscribe"}, {"subject": "ada"}),
        ({"stream": "ruled", "groupId": "ada", "operation": "history"}, None),
    ]


class Odd:
    def __bool__(self) -> bool:
        return True


async def forgotten() -> bool:
    return True


def raising(_: Any) -> Any:
    raise ValueError("a mistake of the author's")


async def raising_later(_: Any) -> Any:
    await asyncio.sleep(0)
    raise KeyError("x")


async def endless(_: Any) -> bool:
    await asyncio.sleep(3600)
    return True


async def stubborn(_: Any) -> bool:
    """It goes on for twenty times as long as it may, though it is cancelled."""
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + 20 * LIMIT_SECONDS
    while loop.time() < ends_at:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(LIMIT_SECONDS)
    return True


async def cancelled(_: Any) -> bool:
    raise asyncio.CancelledError


def stopped(_: Any) -> Any:
    raise StopIteration


def exiting(_: Any) -> Any:
    raise SystemExit


async def exiting_later(_: Any) -> Any:
    raise SystemExit


REFUSING = [
    lambda _: False,
    lambda _: None,
    lambda _: 1,
    lambda _: "yes",
    lambda _: Odd(),
    lambda _: {"authorized": True},
    lambda _: [True],
    raising,
    raising_later,
    endless,
    cancelled,
    stopped,
    exiting,
    exiting_later,
]


@hurried
@pytest.mark.parametrize("number", range(len(REFUSING)))
async def test_all_but_true_denies(make: Make, number: int) -> None:
    """What is falsy, truthy, raised, late, or ends the process elsewhere; the event loop goes on."""
    access = make(can_access=REFUSING[number])
    assert not await access.may(ADA, ruled(), "open")


@hurried
async def test_one_who_does_not_give_up_keeps_nobody_waiting(make: Make) -> None:
    """A function that swallows its cancellation is let go of."""
    assert not await make(can_access=stubborn).may(ADA, ruled(), "open")


@hurried
async def test_a_plain_function_that_hangs_is_let_go_of(make: Make) -> None:
    """Its thread can't be ended."""
    release = threading.Event()
    try:
        assert not await make(can_access=lambda _: release.wait(60)).may(ADA, ruled(), "open")
    finally:
        release.set()


async def test_a_coroutine_is_not_taken_for_a_yes(make: Make) -> None:
    """A plain function that hands one on is awaited: the object itself would be truthy."""

    async def no() -> bool:
        return False

    assert not await make(can_access=lambda _: no()).may(ADA, ruled(), "open")
    assert await make(can_access=lambda _: forgotten()).may(ADA, ruled(), "open")


async def test_a_rule_that_fails_is_told_once_with_its_place(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """Its author needs the traceback; a thousand of them hide everything else."""
    access = make(can_access=raising)
    for _ in range(10):
        await access.may(ADA, ruled(), "open")
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "stream ruled: can_access failed: ValueError: a mistake of the author's" in record.getMessage()
    assert record.exc_info is not None


async def test_each_call_has_its_own_subscription(make: Make) -> None:
    """An author may change it."""

    def may(subscription: Any) -> bool:
        subscription["groupId"] = "another"
        return True

    wish = ruled("g")
    assert await make(can_access=may).may(ADA, wish, "open")
    assert wish.group_id == "g"


@pytest.mark.parametrize(
    ("answer", "is_let_in"),
    [
        (None, True),
        ({}, True),
        ({"unauthorized": False}, True),
        ({"unauthorized": None}, True),
        ({"unauthorized": True}, False),
        ({"unauthorized": "yes"}, False),
        ({"unauthorized": 0}, False),
        (False, False),
    ],
)
async def test_who_joins_may_still_be_denied(make: Make, answer: Any, is_let_in: bool) -> None:
    """By Motia's answer, or False."""
    assert await make(on_join=lambda _: answer).join(ADA, ruled()) is is_let_in


@hurried
@pytest.mark.parametrize("function", [raising, raising_later, endless, exiting])
async def test_a_join_that_fails_denies(make: Make, function: Any) -> None:
    """As a rule that fails does."""
    assert not await make(on_join=function).join(ADA, ruled())


async def test_a_leave_that_fails_hurts_nobody(make: Make, functions: AuthorFunctions) -> None:
    """There is nobody left who could be told."""
    left: list[Any] = []
    access = make(on_leave=lambda subscription, auth: left.append((subscription["groupId"], auth)) or 1 / 0)
    access.leave(ADA, ruled())
    await functions.close()
    assert left == [("g", {"subject": "ada"})]


async def test_the_time_of_a_denial_is_about_the_same_for_what_there_is_not(make: Make) -> None:
    """An unknown stream is denied as late as a rule denies: it is slept for as long as rules took of late."""
    slept = 0.02

    async def slow(_: Any) -> bool:
        await asyncio.sleep(slept)
        return False

    access, loop = make(can_access=slow), asyncio.get_running_loop()
    for wish in (ruled(), Wish("nothing", "g"), Wish("nothing else", "g")):
        began = loop.time()
        assert not await access.may(ADA, wish, "open")
        assert loop.time() - began >= slept * 0.9  # never before; how long after is the machine's affair
    assert access.at_once(ADA, "nothing", "open") is None


# Who sends a request.


def request(token: str | None = None) -> dict[str, Any]:
    return {"headers": {}, "path": "/", "query": {}, "address": None, "token": token}


def authentication(functions: AuthorFunctions, function: Any) -> Authentication:
    return Authentication(by_function(Function.of("authenticate", function, ("request",)), functions), Causes())


@pytest.mark.parametrize(
    ("answer", "is_known", "subject"),
    [
        (None, False, None),
        ({}, False, None),
        ({"subject": "ada"}, True, "ada"),
        ({"subject": 7}, True, "7"),
        ({"name": "ada"}, True, None),
        (ADA, True, "ada"),
        ("ada", True, None),
        (0, True, None),
    ],
)
async def test_what_authenticate_answers_is_who_it_is(
    functions: AuthorFunctions, answer: Any, is_known: bool, subject: str | None
) -> None:
    """A dict or any object; None is anybody."""
    caller = await authentication(functions, lambda _: answer).caller_of(request())
    assert (caller.is_known, caller.subject) == (is_known, subject)


@pytest.mark.parametrize("error", [UnauthorizedError("no"), PermissionError("no")])
async def test_a_refusal_is_401(functions: AuthorFunctions, error: Exception) -> None:
    """Tidelog's error, or Python's own."""

    def refuse(_: Any) -> Any:
        raise error

    for function in (refuse, lambda _: False):
        with pytest.raises(UnauthorizedError):
            await authentication(functions, function).caller_of(request())


FAILING = [raising, raising_later, endless, stubborn, cancelled, stopped, exiting, exiting_later]
FAILING += [lambda _: {"subject": "ada", "expires_at": "tomorrow"}, lambda _: {"expires_at": float("nan")}]


@hurried
@pytest.mark.parametrize("number", range(len(FAILING)))
async def test_an_authentication_that_fails_lets_nobody_in(functions: AuthorFunctions, number: int) -> None:
    """503: it isn't known who this is."""
    with pytest.raises(AuthenticationUnavailableError):
        await authentication(functions, FAILING[number]).caller_of(request())


async def test_a_token_is_in_no_log_whatever_fails(
    functions: AuthorFunctions, caplog: pytest.LogCaptureFixture
) -> None:
    """Not in the error's text, nor in what caused it, nor in its notes."""
    token = "opaque-Token_1234567890"

    def leaky(request: Any) -> Any:
        try:
            raise LookupError(f"no such token: {request['token']}")
        except LookupError as cause:
            error = ValueError(f"bad {request['token']}", request)
            error.add_note(f"of {request['token']}")
            raise error from cause

    with caplog.at_level(logging.DEBUG), pytest.raises(AuthenticationUnavailableError) as failed:
        await authentication(functions, leaky).caller_of(request(token))
    assert "authenticate failed: ValueError: ('bad ***'" in caplog.text
    assert token not in caplog.text + str(failed.value)


async def test_a_token_that_is_too_long_is_not_looked_at(functions: AuthorFunctions) -> None:
    """Nobody's function parses a megabyte."""
    with pytest.raises(UnauthorizedError):
        await authentication(functions, lambda _: ADA).caller_of(request("x" * 8193))


# Asking again.


@pytest.mark.parametrize(
    ("payload", "hint"),
    [
        ("", ALL),
        ("{}", ALL),
        ('{"subject": "ada"}', Hint("ada")),
        ('{"stream": "s", "group": "g", "subject": null}', Hint(None, "s", "g")),
        ("null", None),
        ("[]", None),
        ("x", None),
        ('{"subject": 5}', None),
        ('{"allow": "eve"}', None),
        ('{"subject": "ada", "deny": true}', None),
        ("[" * 5000, None),
        ('{"subject": "' + "x" * 9000 + '"}', None),
    ],
)
def test_a_notify_is_a_hint_or_nothing(payload: str, hint: Hint | None) -> None:
    """There is nothing else that it could say."""
    assert Hint.of(payload) == hint


async def test_a_flood_of_hints_is_few_rounds() -> None:
    """Each asks for all that the hints since the last one are about; of very many, for everything."""
    rounds: list[set[Hint]] = []
    gate, second = asyncio.Event(), asyncio.Event()

    async def ask_again(hints: Any) -> None:
        rounds.append(set(hints))
        await (gate if len(rounds) == 1 else second).wait()

    recheck = Recheck(ask_again)
    recheck.note(Hint("first"))
    await asyncio.sleep(0)
    for number in range(HINTS_MAX + 50):
        recheck.note(Hint(f"user {number}"))
    gate.set()
    await eventually(lambda: len(rounds) == 2)
    assert rounds == [{Hint("first")}, {ALL}]
    recheck.close()
