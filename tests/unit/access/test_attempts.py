"""How often an address may try tokens, and whom that doesn't shut out."""

from __future__ import annotations

from typing import Any, cast

import pytest

from tidelog.access.authentication import TOKEN, Authentication
from tidelog.access.caller import ANYBODY, Caller
from tidelog.errors import TokenExpiredError, TooManyAttemptsError, UnauthorizedError
from tidelog.settings import Settings
from tidelog.web import allowance, attempts
from tidelog.web.addresses import Addresses
from tidelog.web.attempts import Attempts
from tidelog.web.callers import Callers

PER_MINUTE = 6


class Users:
    """Tokens that begin with "right" are Ada's."""

    def __init__(self) -> None:
        self.asked = 0

    async def caller_of(self, request: dict[str, Any]) -> Caller:
        self.asked += 1
        if request[TOKEN] is None:
            return ANYBODY
        if request[TOKEN] == "expired":
            raise TokenExpiredError("the token has expired")
        if not request[TOKEN].startswith("right"):
            raise UnauthorizedError("nobody has this token")
        return Caller({"subject": "ada"})


class World:
    def __init__(self, **settings: Any) -> None:
        self.users = Users()
        self.attempts = Attempts(PER_MINUTE)
        said = Settings(**settings)
        self.callers = Callers(cast("Authentication", self.users), Addresses(said), attempts=self.attempts)

    async def come(self, token: str | None, address: str | None = "192.0.2.1", **headers: str) -> str:
        """What comes of it: a subject, "wrong", or "too many"."""
        said = dict(headers) if token is None else {"authorization": f"Bearer {token}", **headers}
        raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in said.items()]
        client = None if address is None else (address, 5000)
        scope: Any = {"type": "http", "path": "/", "query_string": b"", "headers": raw, "client": client}
        try:
            return str((await self.callers.of(scope)).subject)
        except TooManyAttemptsError as error:
            assert 1 <= error.retry_seconds <= 120
            return "too many"
        except UnauthorizedError:
            return "wrong"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(allowance, "monotonic", lambda: now[0])
    return now


async def test_an_address_that_tries_too_many_tokens_is_refused_before_anybody_is_asked(clock: list[float]) -> None:
    """The right one among them, too; another address goes on, and this one in a while."""
    world = World()
    assert [await world.come(f"guess-{nr}") for nr in range(PER_MINUTE)] == ["wrong"] * PER_MINUTE
    asked = world.users.asked
    for nr in range(20):
        assert await world.come(f"more-{nr}") == "too many"
    assert await world.come("right") == "too many"
    assert world.users.asked == asked
    assert await world.come("right", "192.0.2.2") == "ada"
    clock[0] += 60 / PER_MINUTE
    assert await world.come("right") == "ada"


async def test_who_has_no_token_or_had_a_right_one_of_late_is_not_shut_out(clock: list[float]) -> None:
    """By a neighbour behind the same address."""
    world = World()
    assert await world.come("right-before") == "ada"
    for nr in range(3 * PER_MINUTE):
        await world.come(f"guess-{nr}")
    assert await world.come("right-before") == "ada"
    assert await world.come(None) == "None"
    assert await world.come("right-new") == "too many"


async def test_many_that_are_tried_at_once_do_not_shut_out_for_ever(clock: list[float]) -> None:
    """They were all on their way before the first was refused."""
    world = World()
    for nr in range(1000):
        world.attempts.note_wrong("192.0.2.1", f"guess-{nr}")
    assert await world.come("right") == "too many"
    clock[0] += 120
    assert await world.come("right") == "ada"


async def test_expired_tokens_are_no_guesses(clock: list[float]) -> None:
    """In the morning a whole office sends them."""
    world = World()
    for _ in range(5 * PER_MINUTE):
        assert await world.come("expired") == "wrong"
    assert await world.come("right") == "ada"


async def test_behind_a_trusted_proxy_the_clients_address_counts(clock: list[float]) -> None:
    """And what a client says of itself doesn't."""
    world = World(trusted_proxies="192.0.2.1")
    for nr in range(2 * PER_MINUTE):
        await world.come(f"guess-{nr}", x_forwarded_for=f"10.0.0.{nr}, 203.0.113.9")
    assert await world.come("right", x_forwarded_for="203.0.113.9") == "too many"
    assert await world.come("right", x_forwarded_for="203.0.113.10") == "ada"


async def test_addresses_of_one_network_of_ipv6_are_one(clock: list[float]) -> None:
    """One customer has 2^64 of them."""
    world = World()
    for nr in range(2 * PER_MINUTE):
        await world.come(f"guess-{nr}", f"2001:db8::{nr + 1:x}")
    assert await world.come("right", "2001:db8::ffff") == "too many"
    for nr in range(2 * PER_MINUTE):
        await world.come(f"guess-{nr}", None)
    assert await world.come("right", None) == "too many"


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many addresses and tokens somebody makes up; and no token is in it."""
    monkeypatch.setattr(attempts, "ADDRESSES_KEPT", 10)
    monkeypatch.setattr(attempts, "RIGHT_KEPT", 10)
    kept = Attempts(PER_MINUTE)
    for nr in range(100):
        kept.note_wrong(f"192.0.2.{nr}", "secret-wrong")
        kept.note_right("192.0.2.1", f"secret-{nr}")
    assert (len(kept._of_address), len(kept._right)) == (10, 10)
    assert "secret" not in repr(vars(kept))
