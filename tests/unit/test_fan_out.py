"""From a commit to the connections that want it, without any socket."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import pytest

from tidelog.feed.cork import Cork
from tidelog.feed.fan_out import Channel, Touched, deliver
from tidelog.feed.messages import Messages
from tidelog.feed.subscription import CommitHead, Subscriber, Subscription
from tidelog.model.change import Change, GroupCommit, Topic
from tidelog.web.allowance import Allowance
from tidelog.web.dialects.tidelog import TidelogDialect
from tidelog.web.protocol import SocketProtocol, encode_frame
from tidelog.web.transport_outlet import TransportOutlet

TOPIC = Topic("chatMessage", "g")
HELLO, WORLD = Messages([b"hello"]), Messages([b"world"])


class Transport:
    """Remembers what is written, as one entry for each call."""

    def __init__(self) -> None:
        self.calls: list[bytes] = []
        self.closing = False

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: bytes) -> None:
        self.calls.append(data)

    def writelines(self, parts: Sequence[bytes]) -> None:
        self.calls.append(b"".join(parts))


class Protocol:
    def __init__(self) -> None:
        self.transport = Transport()

    def watch(self, *_: object) -> None:
        pass

    def unwatch(self) -> None:
        pass

    def end(self, code: int, reason: str) -> None:
        self.transport.write(f"close {code} {reason}".encode())


class Person:
    """A subscriber."""

    is_full = False

    def __init__(self, outlet: Any) -> None:
        self.outlet = outlet
        self.deliver = outlet.write
        self.dialect = DIALECT


class Other:
    """An outlet of a class of its own."""

    def __init__(self) -> None:
        self.got: list[Messages] = []

    def write(self, messages: Messages) -> None:
        self.got.append(messages)

    @staticmethod
    def write_all(outlets: Iterable[Other], messages: Messages) -> None:
        for outlet in outlets:
            outlet.write(messages)


DIALECT = TidelogDialect()


def wires(*messages: Messages) -> bytes:
    return b"".join(encode_frame(payload) for each in messages for payload in each.payloads)


@pytest.fixture
def cork() -> Cork:
    return Cork()


def open_outlets(cork: Cork, number: int) -> tuple[list[TransportOutlet], list[Transport]]:
    protocols = [Protocol() for _ in range(number)]
    outlets = [
        TransportOutlet(cast("SocketProtocol", one), cork, 1000, Allowance(1, 1), lambda: None) for one in protocols
    ]
    return outlets, [one.transport for one in protocols]


def test_nothing_is_written_to_one_that_ends(cork: Cork) -> None:
    """Not once its close frame is out, nor when the server has begun to close it; the others get all."""
    outlets, transports = open_outlets(cork, 3)
    outlets[0].close(1013, "come back")
    transports[1].closing = True
    TransportOutlet.write_all(outlets, HELLO)
    outlets[0].write(HELLO)
    assert [transport.calls for transport in transports] == [[b"close 1013 come back"], [], [wires(HELLO)]]


def test_what_arrives_together_is_one_write_for_each_connection(cork: Cork) -> None:
    """Under a cork, in order; one that ends meanwhile gets nothing, and the next write goes out at once again."""
    outlets, transports = open_outlets(cork, 3)
    with cork.held():
        TransportOutlet.write_all(outlets, HELLO)
        TransportOutlet.write_all(outlets[:2], WORLD)
        assert not any(transport.calls for transport in transports)
        outlets[1].end()
    assert [transport.calls for transport in transports] == [[wires(HELLO, WORLD)], [], [wires(HELLO)]]
    outlets[0].write(HELLO)
    assert transports[0].calls == [wires(HELLO, WORLD), wires(HELLO)]


def test_outlets_of_two_classes_get_the_same(cork: Cork) -> None:
    """Though they are written to in different ways; and who left gets no more."""
    (outlet,), (transport,) = open_outlets(cork, 1)
    other = Other()
    channel = Channel()
    subscriptions = [Subscription("s", cast("Subscriber", Person(one)), TOPIC) for one in (outlet, other)]
    for subscription in subscriptions:
        channel.go_live(subscription, DIALECT)
    change = Change(1, "create", "i", 1, "{}")
    touched = [Touched(TOPIC, channel, GroupCommit([change], []), [change])]
    deliver(CommitHead(1, 0.0), touched)
    assert transport.calls == [wires(*other.got)]
    assert b'"position":1' in transport.calls[0]

    channel.leave(subscriptions[1], DIALECT)
    deliver(CommitHead(2, 0.0), touched)
    assert (len(transport.calls), len(other.got)) == (2, 1)
