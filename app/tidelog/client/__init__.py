"""A client for Tidelog's WebSocket dialect `tidelog.v1`, for programs that follow streams from Python.

    async with Client("ws://127.0.0.1:3000") as client:
        async for message in client.subscribe("chatMessage", "general"):
            match message:
                case Snapshot(position, items): ...
                case Commit(position, at, changes): ...

Its errors are exported beside it. It knows the protocol and nothing of the server: of Tidelog it needs
`tidelog.errors` and `tidelog.json_text`, of other packages `websockets` only.
"""

from tidelog.client.connection import Client
from tidelog.client.messages import Change, Commit, Event, Item, Live, Message, Reset, Snapshot
from tidelog.client.subscription import Subscription
from tidelog.errors import (
    ServerNotUnderstoodError,
    ServerRefusedError,
    ServerUnreachableError,
    SubscriptionRefusedError,
    TransactionNotPassedError,
    WaitTimedOutError,
)

__all__ = [
    "Change",
    "Client",
    "Commit",
    "Event",
    "Item",
    "Live",
    "Message",
    "Reset",
    "ServerNotUnderstoodError",
    "ServerRefusedError",
    "ServerUnreachableError",
    "Snapshot",
    "Subscription",
    "SubscriptionRefusedError",
    "TransactionNotPassedError",
    "WaitTimedOutError",
]
