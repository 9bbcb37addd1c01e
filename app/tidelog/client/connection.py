"""The client's connection: opened again whenever it is lost, and shared by its subscriptions.

Who comes back, after which close code:

| code | meaning | the client |
|---|---|---|
| 1012 | the server restarts | comes back at once, resuming |
| 1013 | this client fell behind | comes back after a moment, resuming |
| 1000, 1001, 1005, 1006, 1011, 1014, 1015 | the server, or the way to it, is gone | comes back after growing pauses |
| 4400 | bad use of the protocol | gives up: subscriptions raise ServerRefusedError |
| 4401 | the token has expired | comes back with another one if `token` is a function, else gives up |
| 4403 | not allowed | gives up |
| all others, e.g. 1008, 1009 | the same again would end the same | gives up |
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import random
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import suppress
from types import MappingProxyType, TracebackType
from typing import Any, Self

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from tidelog.client.group import GroupState
from tidelog.client.messages import Frame
from tidelog.client.server import DIALECT, Server, Token, why
from tidelog.client.subscription import Subscription
from tidelog.errors import (
    ServerNotUnderstoodError,
    ServerRefusedError,
    ServerUnreachableError,
    SubscriptionRefusedError,
    TransactionNotPassedError,
    WaitTimedOutError,
)
from tidelog.json_text import parse

logger = logging.getLogger("tidelog.client")

WAIT_TIMEOUT_SECONDS = 30.0  # for a transaction; the server gives up sooner, but may be away

TOKEN_EXPIRED = 4401
COME_BACK_AT_ONCE = 1012
COME_BACK = frozenset({1000, 1001, 1005, 1006, 1011, 1012, 1013, 1014, 1015})

# The codes of what the server could not serve for some time, or not so much of at once, but may later.
ASK_AGAIN = frozenset({"subscription_unavailable", "too_many_joins"})

DELAY_FIRST_SECONDS = 0.25
DELAY_MAX_SECONDS = 10.0


class Client:
    """A connection to a Tidelog server, to be used with `async with`.

    The first connection is made at once, so that a wrong address shows itself: `async with` raises
    ServerUnreachableError, an OSError, if nobody is there, or has room (502, 503, 429), and ServerRefusedError if it is
    denied. Later it is made again whenever it is lost, and every subscription goes on from its position.

    All subscriptions share the connection. One whose consumer is slow lets at most MESSAGES_MAX messages wait for it;
    then the connection is not read, which holds up the others, too: a consumer that must not be held up takes a client
    of its own, and one task never waits for one subscription while another one's messages pile up.

    `token` is sent as a bearer token. A function is asked for one, plain or async, for each connection, and when the
    server says that the last one expires. Other keyword arguments are those of `websockets.asyncio.client.connect`.
    """

    def __init__(self, url: str, *, token: Token | None = None, **connect_options: Any) -> None:
        self._server = Server(url, token, connect_options)
        self._shown = self._server.shown
        self._ids = (f"s{number}" for number in itertools.count(1))
        self._subscriptions: dict[str, Subscription] = {}
        self._asked: set[str] = set()  # the subscriptions that this connection was asked for
        self._asking_again: set[asyncio.Task[None]] = set()
        self._renewing: asyncio.Task[None] | None = None
        self._awaited: dict[str, asyncio.Future[int]] = {}  # by transactions
        self._socket: ClientConnection | None = None
        self._delays = _delays()
        self._complaint = ""  # the server's last word about the connection
        self._running: asyncio.Task[None] | None = None
        self._failure: Exception | None = None

    async def __aenter__(self) -> Self:
        if self._running is not None:
            raise RuntimeError("this client was used already: make a new one")
        try:
            socket = await self._server.connect()
        except (OSError, InvalidHandshake) as error:  # also of a proxy's 502, or a server that stops
            raise ServerUnreachableError(f"can't connect to {self._shown}: {why(error)}") from error
        self._running = asyncio.create_task(self._run(socket))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._running is not None  # noqa: S101 - entered
        self._running.cancel()
        with suppress(asyncio.CancelledError):
            await self._running
        for task in self._asking_again:
            task.cancel()
        if self._renewing is not None:
            self._renewing.cancel()

    def subscribe(
        self, stream: str, group: str, *, item: str | None = None, since: int | None = None, epoch: str | None = None
    ) -> Subscription:
        """The messages of a group, or of one item of it, from now on: a snapshot, Live, and then what happens.

        With `since` and `epoch` (a Subscription's `position` and `epoch`, kept from another time) the commits after
        that position come instead of the snapshot; if they can't, a Reset and then a snapshot.
        """
        if (since is None) != (epoch is None):
            raise ValueError("since and epoch belong together: a position means nothing without its epoch")
        place = None if since is None or epoch is None else (since, epoch)
        return Subscription(self, next(self._ids), stream, group, item, place)

    async def wait_for(self, transaction: str, *, timeout_seconds: float = WAIT_TIMEOUT_SECONDS) -> int:
        """Return when the server's feed has passed this transaction: a step's answer has it, as `Tidelog-Transaction`.

        What it changed has then come to this client's live subscriptions, or there was nothing. Returns its position.
        Raises TransactionNotPassedError, whose code is the server's, for what is no such transaction; and
        WaitTimedOutError.
        """
        if self._failure is not None:
            raise self._failure
        if self._running is None or self._running.done():
            raise RuntimeError("the client is not connected: use it inside its `async with`")
        passed = self._awaited.get(transaction)
        if passed is None:
            passed = self._awaited[transaction] = asyncio.get_running_loop().create_future()
            await self._ask_when(transaction)
        try:
            async with asyncio.timeout(timeout_seconds):
                return await asyncio.shield(passed)
        except TimeoutError:
            raise WaitTimedOutError(f"no answer on transaction {transaction} within {timeout_seconds:g} s") from None

    async def _ask_when(self, transaction: str) -> None:
        """Now, or with the next connection."""
        if self._socket is not None:
            with suppress(ConnectionClosed):
                await self._socket.send(json.dumps({"type": "wait", "transaction": transaction}))

    async def watch(self, stream: str, group: str) -> AsyncGenerator[Mapping[str, dict[str, Any]], None]:
        """The group's items by their ids, in the order of their creation: at first, and whenever they changed.

        It is a view of one mapping, which changes when the next is asked for. Always as of a commit, and of the newest
        one: a consumer that takes its time does not get the states between.
        """
        state = GroupState()
        view = MappingProxyType(state.items)
        behind = 0
        async with self.subscribe(stream, group) as subscription:
            async for message in subscription:
                behind -= 1
                state.apply(message)
                if state.has_changed and behind <= 0:
                    state.has_changed = False
                    yield view
                    behind = subscription.waiting

    async def open(self, subscription: Subscription) -> None:
        """Subscribe now, or with the next connection. Called by the subscription."""
        if self._failure is not None:
            raise self._failure
        if self._running is None or self._running.done():
            raise RuntimeError("the client is not connected: use it inside its `async with`")
        self._subscriptions[subscription.id] = subscription
        if self._socket is not None:
            await self._ask(self._socket, subscription)

    async def close(self, subscription: Subscription) -> None:
        """Unsubscribe. Called by the subscription."""
        self._subscriptions.pop(subscription.id, None)
        if self._socket is not None and subscription.id in self._asked:
            self._asked.discard(subscription.id)
            with suppress(ConnectionClosed):
                await self._socket.send(json.dumps({"type": "unsubscribe", "id": subscription.id}))

    async def _run(self, socket: ClientConnection) -> None:
        """Serve one connection after the other, until cancelled or refused for good."""
        try:
            while True:
                was_useful = await self._serve(socket)
                if was_useful:
                    self._delays = _delays()
                code = socket.close_code or 1006
                has_another_token = code == TOKEN_EXPIRED and self._server.has_other_tokens
                if code not in COME_BACK and not has_another_token:
                    reason = socket.close_reason or self._complaint or "no reason given"
                    raise ServerRefusedError(f"{self._shown} closed the connection with code {code}: {reason}", code)
                logger.info("%s closed the connection with code %d, coming back", self._shown, code)
                socket = await self._connect_again(at_once=was_useful and code == COME_BACK_AT_ONCE)
        except Exception as error:
            self._failure = error
        finally:
            for subscription in self._subscriptions.values():
                subscription.end(self._failure)
            for passed in self._awaited.values():
                passed.set_exception(self._failure or RuntimeError("the client was closed"))
                passed.exception()  # whoever waits gets it
            self._awaited.clear()

    async def _connect_again(self, *, at_once: bool) -> ClientConnection:
        if not at_once:
            await asyncio.sleep(next(self._delays))
        while True:
            try:
                return await self._server.connect()
            except ServerRefusedError:
                raise
            except Exception as error:
                logger.warning("no connection to %s, trying again: %s", self._shown, why(error))
            await asyncio.sleep(next(self._delays))

    async def _serve(self, socket: ClientConnection) -> bool:
        """Receive until the connection ends; returns whether any subscription was served."""
        self._socket, self._asked, self._complaint = socket, set(), ""
        was_useful = False
        try:
            for subscription in list(self._subscriptions.values()):
                await self._ask(socket, subscription)
            for transaction in list(self._awaited):
                await self._ask_when(transaction)
            async for text in socket:
                was_useful |= await self._receive(parse(text if isinstance(text, str) else text.decode()), len(text))
        except ConnectionClosed:
            pass
        except (LookupError, TypeError, ValueError) as error:
            raise ServerNotUnderstoodError(f"{self._shown} sent a frame that is not {DIALECT}: {error!r}") from error
        finally:
            self._socket = None
            await socket.close()
        return was_useful

    async def _ask(self, socket: ClientConnection, subscription: Subscription) -> None:
        if subscription.id in self._asked or subscription.id not in self._subscriptions:
            return
        self._asked.add(subscription.id)
        with suppress(ConnectionClosed):
            await socket.send(json.dumps(subscription.request()))

    async def _ask_again(self, socket: ClientConnection, subscription: Subscription, after_seconds: float) -> None:
        """After a pause, unless another connection asks before; the server took its time for it, too."""
        await asyncio.sleep(after_seconds + random.uniform(0, DELAY_MAX_SECONDS))  # noqa: S311 - jitter, not a secret
        if self._socket is socket:
            await self._ask(socket, subscription)

    async def _renew(self, socket: ClientConnection) -> None:
        """If it can't be had, the connection ends with the last one, and is opened again."""
        try:
            message = {"type": "auth", "token": await self._server.token()}
            with suppress(ConnectionClosed):
                await socket.send(json.dumps(message))
        except Exception as error:
            logger.warning("%s: there is no other token: %s", self._shown, type(error).__name__)

    async def _receive(self, frame: Frame, size: int) -> bool:
        """Hand a frame to its subscriptions; returns whether it was for one. Unknown frames are of newer servers."""
        match frame["type"]:
            case "commit" | "event":
                ids = frame["subscriptions"]
            case "snapshot" | "live" | "reset":
                ids = [frame["subscription"]]
            case "status":
                logger.info("%s: the server's feed is %s", self._shown, frame["feed"])
                self._reach(frame["position"], frame.get("epoch"))
                return False
            case "token_expires" if self._server.has_other_tokens and self._socket is not None:
                self._renewing = asyncio.create_task(self._renew(self._socket))
                return False
            case "passed":
                if (passed := self._awaited.pop(frame["transaction"], None)) is not None:
                    passed.set_result(frame["position"])
                return False
            case "error":
                self._take_error(frame)
                return False
            case _:
                return False
        addressed = [self._subscriptions[id] for id in ids if id in self._subscriptions]
        for subscription in addressed:
            await subscription.receive(frame, size)
        # Frames of live subscriptions come in the order of the feed; of one that catches up, out of it.
        if frame["type"] in ("commit", "event") and any(subscription.is_live for subscription in addressed):
            self._reach(frame["position"])
        return bool(addressed)

    def _reach(self, position: int, epoch: str | None = None) -> None:
        """Quiet subscriptions go with the others: else they would resume from far behind."""
        for subscription in self._subscriptions.values():
            subscription.reach(position, epoch)

    def _take_error(self, frame: Frame) -> None:
        code, message = frame["code"], frame["message"]
        if (passed := self._awaited.pop(frame.get("transaction", ""), None)) is not None:
            passed.set_exception(TransactionNotPassedError(message, code))
            passed.exception()  # whoever waits gets it
            return
        id = frame.get("subscription")
        if id is None or code == "subscription_exists":
            self._complaint = f"{code}: {message}"
            logger.warning("%s complains: %s", self._shown, self._complaint)
            return
        self._asked.discard(id)
        if code in ASK_AGAIN and id in self._subscriptions and self._socket is not None:
            logger.warning("%s: %s", self._shown, message)
            self._subscriptions[id].is_live = False  # the others go on without it
            again = self._ask_again(self._socket, self._subscriptions[id], frame.get("retry_after", 0))
            task = asyncio.create_task(again)
            self._asking_again.add(task)
            task.add_done_callback(self._asking_again.discard)
            return
        subscription = self._subscriptions.pop(id, None)
        if subscription is not None:
            subscription.end(SubscriptionRefusedError(f"{subscription.stream}/{subscription.group}: {message}", code))


def _delays() -> Iterator[float]:
    """Growing pauses, anywhere between nothing and the limit: clients that were cut off together come back apart."""
    limit = DELAY_FIRST_SECONDS
    while True:
        yield random.uniform(0, limit)  # noqa: S311 - jitter, not a secret
        limit = min(limit * 2, DELAY_MAX_SECONDS)
