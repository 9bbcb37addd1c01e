"""Connections that a client may have, and how fast it may subscribe: one at its limit takes nothing of another's."""

from __future__ import annotations

from typing import Any

import pytest

from tidelog.errors import ServerFullError, TooManyConnectionsError
from tidelog.settings import Settings
from tidelog.web import crowd
from tidelog.web.crowd import Crowd, Joins, Place, client_of, seconds_until_next


def test_one_more_than_an_address_may_have_is_refused_and_another_is_not() -> None:
    """Nor is the next of the first, once one has left."""
    crowd = Crowd(per_address_max=2)
    places = [crowd.enter("192.0.2.1") for _ in range(2)]
    with pytest.raises(TooManyConnectionsError, match="TIDELOG_CONNECTIONS_PER_ADDRESS_MAX"):
        crowd.enter("192.0.2.1")
    crowd.enter("192.0.2.2")
    crowd.leave(places[0])
    crowd.enter("192.0.2.1")


def test_a_subject_is_counted_wherever_it_comes_from() -> None:
    """And one without is not."""
    crowd = Crowd(per_subject_max=1)
    crowd.enter("192.0.2.1", "ada")
    with pytest.raises(TooManyConnectionsError, match="1 connections of this subject"):
        crowd.enter("192.0.2.2", "ada")
    for subject in ("bob", None, None):
        crowd.enter("192.0.2.1", subject)


def test_all_together_are_bounded() -> None:
    """Whoever is refused for another reason is not counted."""
    crowd = Crowd(connections_max=2, per_address_max=1)
    first = crowd.enter("192.0.2.1")
    for _ in range(5):
        with pytest.raises(TooManyConnectionsError):
            crowd.enter("192.0.2.1")
    crowd.enter("192.0.2.2")
    with pytest.raises(ServerFullError):
        crowd.enter("192.0.2.3")
    with pytest.raises(TooManyConnectionsError):  # the client's own limit is what it is told of
        crowd.enter("192.0.2.1")
    crowd.leave(first)
    crowd.enter("192.0.2.3")


def test_nothing_is_left_of_those_who_have_gone() -> None:
    """However many there were."""
    crowd = Crowd(3, 2, 2)
    for n in range(1000):
        crowd.leave(crowd.enter(f"192.0.{n % 256}.{n % 9}", f"s{n}"))
    assert (crowd._count, crowd._of_address, crowd._of_subject) == (0, {}, {})


def test_the_log_tells_once_who_is_at_its_limit_and_the_setting(caplog: pytest.LogCaptureFixture) -> None:
    """And what it may be, if it is many clients."""
    crowd = Crowd(per_address_max=1)
    crowd.enter("192.0.2.1")
    for _ in range(3):
        with pytest.raises(TooManyConnectionsError):
            crowd.enter("192.0.2.1")
    (told,) = caplog.messages
    for part in ("192.0.2.1", "TIDELOG_CONNECTIONS_PER_ADDRESS_MAX", "TIDELOG_TRUSTED_PROXIES"):
        assert part in told


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What time it is, to be changed."""
    now = [1000.0]
    monkeypatch.setattr("tidelog.web.allowance.monotonic", lambda: now[0])
    return now


def joins(**settings: Any) -> Joins:
    return Joins(Settings(socket_subscriptions_max=5, socket_joins_per_second_max=2, **settings))


def test_a_client_subscribes_as_often_as_it_may_and_is_told_when_it_may_again(clock: list[float]) -> None:
    """At once thrice all that a connection may have, and ten seconds' worth; then so many a second.

    What is refused costs nothing.
    """
    allowance = joins().allowance_of(client_of(Place(None, None)))
    assert [seconds_until_next(allowance) for _ in range(3 * 5 + 10 * 2)] == [0] * 35
    assert [seconds_until_next(allowance) for _ in range(1000)] == [1] * 1000
    clock[0] += 1
    assert [seconds_until_next(allowance) for _ in range(3)] == [0, 0, 1]


def test_a_subject_that_comes_again_has_no_new_allowance(clock: list[float]) -> None:
    """From another address, either; other subjects have their own, and so has each connection of nobody's."""
    all = joins()
    ada = all.allowance_of(client_of(Place("192.0.2.1", "ada")))
    assert all.allowance_of(client_of(Place("192.0.2.2", "ada"))) is ada
    assert all.allowance_of(client_of(Place("192.0.2.1", "bob"))) is not ada
    assert all.allowance_of(client_of(Place("192.0.2.1", None))) is all.allowance_of(
        client_of(Place("192.0.2.1", None))
    )
    assert all.allowance_of(client_of(Place(None, None))) is not all.allowance_of(client_of(Place(None, None)))


def test_very_many_clients_are_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those are forgotten that have not been here for longest."""
    monkeypatch.setattr(crowd, "CLIENTS_KEPT", 3)
    all = joins()
    first = all.allowance_of(client_of(Place(None, "s0")))
    for n in range(5):
        all.allowance_of(client_of(Place(None, f"s{n}")))
        assert all.allowance_of(client_of(Place(None, "s0"))) is first
    assert len(all._of_client) == 3


def test_whose_a_connection_is_may_be_known_later() -> None:
    """It is counted meanwhile, and as before if the user has too many."""
    crowd = Crowd(connections_max=3, per_address_max=2, per_subject_max=1)
    first = crowd.identify(crowd.enter("192.0.2.1"), "ada")
    second = crowd.enter("192.0.2.1")
    with pytest.raises(TooManyConnectionsError):
        crowd.identify(second, "ada")
    crowd.leave(second)
    crowd.leave(first)
    assert crowd.identify(crowd.enter("192.0.2.1"), "ada") == first
