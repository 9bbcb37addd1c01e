"""How many connections there are, in all and of each client, and how fast clients may subscribe.

A client is a subject, once it has one, and an address. It knows nothing of what is done on connections.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from typing import NamedTuple

from tidelog.errors import ServerFullError, TooManyConnectionsError
from tidelog.logs.seldom import Seldom
from tidelog.settings import Settings
from tidelog.web.addresses import counted_as
from tidelog.web.allowance import Allowance

# What an honest page may do at once: join all that it may have, and twice leave that and join as much again.
JOINS_FOR_EACH_SUBSCRIPTION = 3
JOINS_BURST_SECONDS = 10.0
CLIENTS_KEPT = 10_000  # whose joins are remembered when they have gone: about 2 MB

logger = logging.getLogger("tidelog.limits")


class Place(NamedTuple):
    """What a connection is counted as."""

    address: str | None
    subject: str | None


def client_of(place: Place) -> Place | None:
    """Who that is: a subject, wherever it comes from, or an address; None: nobody but the connection itself."""
    if place.subject is not None:
        return Place(None, place.subject)
    return None if place.address is None else place


class Crowd:
    """Those who are connected. Limits that are None aren't looked at."""

    def __init__(
        self,
        connections_max: int | None = None,
        per_address_max: int | None = None,
        per_subject_max: int | None = None,
    ) -> None:
        self._connections_max = connections_max
        self._per_address_max = per_address_max
        self._per_subject_max = per_subject_max
        self._count = 0
        self._of_address: dict[str, int] = {}
        self._of_subject: dict[str, int] = {}
        self._seldom = Seldom()  # of each setting

    @classmethod
    def of(cls, settings: Settings) -> Crowd:
        """As the settings bound it."""
        return cls(settings.connections_max, settings.connections_per_address_max, settings.connections_per_subject_max)

    def enter(self, address: str | None, subject: str | None = None) -> Place:
        """Count one more. Raises ServerFullError or TooManyConnectionsError: then it is not counted.

        It is looked at what is the client's own first: at its own limit it is told so, whoever else is there.
        """
        place = Place(
            None if address is None or self._per_address_max is None else counted_as(address),
            None if self._per_subject_max is None else subject,
        )
        self._check("subject", place.subject, self._of_subject, self._per_subject_max)
        self._check("address", place.address, self._of_address, self._per_address_max)
        if self._connections_max is not None and self._count >= self._connections_max:
            self._tell("TIDELOG_CONNECTIONS_MAX", f"{self._count} connections are open")
            raise ServerFullError
        self._count += 1
        for key, counts in ((place.address, self._of_address), (place.subject, self._of_subject)):
            if key is not None:
                counts[key] = counts.get(key, 0) + 1
        return place

    def identify(self, place: Place, subject: str | None) -> Place:
        """Whose connection it is, is known now. Raises TooManyConnectionsError: then it is counted as before."""
        if subject is None or self._per_subject_max is None:
            return place
        self._check("subject", subject, self._of_subject, self._per_subject_max)
        self._of_subject[subject] = self._of_subject.get(subject, 0) + 1
        return Place(place.address, subject)

    def leave(self, place: Place) -> None:
        """That one has ended."""
        self._count -= 1
        for key, counts in ((place.address, self._of_address), (place.subject, self._of_subject)):
            if key is not None:
                counts[key] -= 1
                if not counts[key]:
                    del counts[key]

    def _check(self, what: str, key: str | None, counts: dict[str, int], limit: int | None) -> None:
        if key is None or limit is None or counts.get(key, 0) < limit:
            return
        setting = f"TIDELOG_CONNECTIONS_PER_{what.upper()}_MAX"
        proxy = "; if it is a proxy, name it in TIDELOG_TRUSTED_PROXIES" if what == "address" else ""
        self._tell(setting, f"the {what} {key} has {limit} connections{proxy}")
        raise TooManyConnectionsError(what, limit)

    def _tell(self, setting: str, words: str) -> None:
        if self._seldom.is_news(setting):
            logger.warning(
                "refusing connections: %s (told once a minute; the bound is %s, of each process)", words, setting
            )


class Member:
    """One of a crowd: a connection, or a request. It has to `leave`."""

    __slots__ = ("_crowd", "place")

    def __init__(self, crowd: Crowd, address: str | None) -> None:
        """Raises what Crowd.enter does."""
        self._crowd = crowd
        self.place = crowd.enter(address)

    @property
    def client(self) -> Place | None:
        """Who it is, as far as it is counted."""
        return client_of(self.place)

    def identify(self, subject: str | None) -> None:
        """Whose it is, is known now. Raises TooManyConnectionsError: then it is counted as before."""
        if self.place.subject is None:
            self.place = self._crowd.identify(self.place, subject)

    def leave(self) -> None:
        """It has ended."""
        self._crowd.leave(self.place)


class Joins:
    """How fast clients may subscribe: a subject, or an address if those are counted, or else each connection."""

    def __init__(self, settings: Settings) -> None:
        self._per_second = settings.socket_joins_per_second_max
        self._burst = (
            settings.socket_subscriptions_max * JOINS_FOR_EACH_SUBSCRIPTION + self._per_second * JOINS_BURST_SECONDS
        )
        # A client that came again would have a new allowance. The oldest has the most of its own by now.
        self._of_client: OrderedDict[Place, Allowance] = OrderedDict()

    def allowance_of(self, client: Place | None) -> Allowance:
        """What a connection of this client may still do."""
        if client is None:
            return Allowance(self._burst, self._per_second)
        allowance = self._of_client.get(client)
        if allowance is None:
            allowance = self._of_client[client] = Allowance(self._burst, self._per_second)
            if len(self._of_client) > CLIENTS_KEPT:
                self._of_client.popitem(last=False)
        self._of_client.move_to_end(client)
        return allowance


def seconds_until_next(allowance: Allowance) -> int:
    """0 if one more is allowed now, which is taken then; else after how many seconds it may be."""
    allowance.left -= 1
    if allowance.left >= 0 or allowance.may_go_on():
        return 0
    allowance.left += 1  # what was refused costs nothing
    return max(1, math.ceil((1 - allowance.left) / allowance.per_second))
