"""What a subscriber gets, kept for a test: a real subscription, by a connection of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from types import MappingProxyType, TracebackType
from typing import Any

from tidelog.client import Change, Client, Commit, Event, Live, Message, Snapshot, Subscription
from tidelog.client.group import GroupState
from tidelog.errors import NotRecordedError

SHOWN_MAX = 10  # messages, in errors
# Of an item that nobody has: a subscription to it costs nothing, and says how far the connection's others are.
NO_ITEM = "tidelog.testing"


class Recording:
    """What came for a group, or for one item of it, since the subscription began. It grows as things happen.

    `snapshot` are the items of the beginning, by their ids; `items` those of now. `messages` is all that came after the
    snapshot, in order; `commits`, `changes` and `events` are parts of it.
    """

    def __init__(
        self, url: str, stream: str, group: str, item: str | None, token: str | None, options: Mapping[str, Any]
    ) -> None:
        self.stream = stream
        self.group = group
        self.item = item
        self.snapshot: Mapping[str, dict[str, Any]] = {}
        self.messages: list[Message] = []
        self._state = GroupState()
        self._url = url
        self._token = token
        self._options = {"proxy": None, **options}
        self._client: Client | None = None
        self._subscription: Subscription | None = None
        self._open = AsyncExitStack()
        self._following: asyncio.Task[None] | None = None
        self._is_live = self._has_ended = False
        self._failure: Exception | None = None  # until somebody was told
        self._came = asyncio.Event()

    @property
    def items(self) -> Mapping[str, dict[str, Any]]:
        return MappingProxyType(self._state.items)

    @property
    def commits(self) -> Sequence[Commit]:
        return [message for message in self.messages if isinstance(message, Commit)]

    @property
    def changes(self) -> Sequence[Change]:
        return [change for commit in self.commits for change in commit.changes]

    @property
    def events(self) -> Sequence[Event]:
        return [message for message in self.messages if isinstance(message, Event)]

    async def until(self, check: Callable[[Recording], object], timeout_seconds: float = 30) -> None:
        """Wait until `check` of this recording is true. Raises NotRecordedError, which shows what came.

        Raises also what the server has refused or ended the subscription with.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                while not check(self):
                    if self._has_ended:
                        self._raise_failure()
                        raise NotRecordedError(f"{self}: the recording has ended; {self._told}")
                    self._came.clear()
                    await self._came.wait()
        except NotRecordedError:
            raise
        except TimeoutError:
            raise NotRecordedError(
                f"{self}: waited {timeout_seconds:g} s for what did not come; {self._told}"
            ) from None

    def __str__(self) -> str:
        return "/".join([self.stream, self.group, *([] if self.item is None else [self.item])])

    # What the recorder and the application call.

    async def open(self) -> None:
        """Subscribe, and return when it is live."""
        try:
            self._client = await self._open.enter_async_context(Client(self._url, token=self._token, **self._options))
            self._subscription = await self._open.enter_async_context(
                self._client.subscribe(self.stream, self.group, item=self.item)
            )
            self._following = asyncio.create_task(self._follow(self._subscription))
            await self.until(lambda _: self._is_live)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """End the subscription; nothing happens if it has ended."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait([self._following])
        self._client = None
        await self._open.aclose()

    async def end(self) -> None:
        """The same; raises what ended it before, if nobody was told."""
        await self.close()
        self._raise_failure()

    async def caught_up(self, position: int) -> None:
        """Wait until all up to `position` is recorded; nothing happens if this is closed, or not open yet."""
        client, subscription = self._client, self._subscription
        if client is None or subscription is None or not self._is_live:
            return
        # A new subscription goes live behind all that is still to come for the older ones of its connection.
        async with client.subscribe(self.stream, self.group, item=NO_ITEM) as last:
            async for message in last:
                if isinstance(message, Live) and message.position >= position:
                    break
        # But not behind a snapshot that an older one begins again with, of which it was told by a Reset before.
        await self.until(lambda _: subscription.is_live and not subscription.waiting)

    @property
    def _told(self) -> str:
        if not self.messages:
            return "nothing came"
        lines = [f"  {message}" for message in self.messages[-SHOWN_MAX:]]
        left_out = len(self.messages) - len(lines)
        return "\n".join([f"what came{f', but for the first {left_out} messages' if left_out else ''}:", *lines])

    async def _follow(self, subscription: Subscription) -> None:
        try:
            async for message in subscription:
                self._take(message)
                self._came.set()
        except Exception as error:
            self._failure = error
        finally:
            self._has_ended = True
            self._came.set()

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _take(self, message: Message) -> None:
        self._state.apply(message)
        if self._is_live:
            self.messages.append(message)
        elif isinstance(message, Live):
            self._is_live = True
        elif isinstance(message, Snapshot):
            self.snapshot = dict(self._state.items)
        else:  # of the time between the snapshot and its being live
            self.messages.append(message)


class Recorder:
    """`async with recorder(...) as seen:` subscribes, and gives the Recording. It may be read afterwards."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording

    async def __aenter__(self) -> Recording:
        await self._recording.open()
        return self._recording

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self._recording.end()
        else:
            await self._recording.close()
