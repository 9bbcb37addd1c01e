"""The wire format `tidelog.v1`: JSON text messages, with positions.

    client   {"type":"subscribe","id":ID,"stream":S,"group":G,"item":I?,"since":P?,"epoch":E?}
             {"type":"unsubscribe","id":ID}
             {"type":"auth","token":K}     instead of the token that the connection was opened with
             {"type":"wait","transaction":X}     to be told when the feed has passed it: a step's Tidelog-Transaction
    server   {"type":"snapshot","subscription":ID,"position":P,"epoch":E,"items":[{"id","version","data"}],"more":B}
             {"type":"commit","subscriptions":[ID],"position":P,"transaction":X,"at":T,"changes":[{"op","stream","group","id","version","data"}]}
             {"type":"event","subscriptions":[ID],"position":P,"stream":S,"group":G,"id":I?,"event":{"type","data"}}
             {"type":"live","subscription":ID,"position":P,"epoch":E}
             {"type":"reset","subscription":ID,"reason":R,"position":P,"epoch":E}     a snapshot follows
             {"type":"status","feed":"interrupted"|"live","position":P,"epoch":E}     also when a new epoch begins
             {"type":"token_expires","at":T}     then the connection is closed (4401), unless there is another token
             {"type":"authenticated","expires":T?}     the answer to `auth`, or an error
             {"type":"passed","transaction":X,"position":P}     all of it was sent before, or an error names X
             {"type":"error","code":C,"message":M,"subscription":ID?,"transaction":X?,"retry_after":SECONDS?}

ID is the client's name for its subscription. A commit is one message for a connection, with all that it
subscribed to; of a delete, `data` is the item as it was. Messages come in the order of the feed, so a position
holds for all live subscriptions of the connection. With `since` and `epoch`, as last received, the missed
commits come first; a snapshot is complete with the page that has `more: false`. A subscription that an error names
is over, and its name free, but for `subscription_exists`.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from operator import itemgetter
from typing import Any

from tidelog.errors import MessageInvalidError, shown
from tidelog.feed.messages import Messages, SharedMessages
from tidelog.feed.subscription import CommitHead, Piece, Share, Subscription
from tidelog.model.change import STEP_ROWS, Change, Event, GroupCommit, Topic
from tidelog.model.position import Position, ResetReason
from tidelog.store.ready import Wording
from tidelog.web.dialects.names import SUBSCRIPTION_NAME_LENGTH_MAX, quote, read_name

SUBPROTOCOL = "tidelog.v1"
SHARED_PIECES_MIN = 16  # of fewer, what could be shared is made sooner than shared
POSITION_MAX = 2**63 - 1  # Postgres's bigint
TRANSACTION_LENGTH_MAX = 64  # "position:", and twenty digits
YEAR_9999 = 253_402_300_799.0  # its end: what is said to be later is later than can be written

# What `commit` makes, in SQL.
COMMIT_SQL = """
{words}[1] || n.number || ',"transaction":"' || n.xid::text
    || '","at":"' || to_char(n.at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
    || '","changes":[{"op":"' || c.op || {words}[2] || to_json(c.id)
    || ',"version":' || c.version || ',"data":' || c.data::text || '}]}'
"""

_EPOCH = datetime(1970, 1, 1)  # UTC, as all of it
_SUBSCRIBE_KEYS = frozenset({"type", "id", "stream", "group", "item", "since", "epoch"})


@dataclass(frozen=True, slots=True)
class Subscribe:
    """A client's wish to be told of a group, or an item."""

    id: str
    topic: Topic
    item_id: str | None
    since: Position | None


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """A client's wish to be told no more."""

    id: str


@dataclass(frozen=True, slots=True)
class Auth:
    """A client's new token."""

    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Wait:
    """A client's wish to be told when a transaction, as it says it, has come by."""

    transaction: str


def parse(text: str) -> Subscribe | Unsubscribe | Auth | Wait:
    """Read a client's message; raises MessageInvalidError saying what is wrong with it."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MessageInvalidError(f"not JSON: {error}") from error
    kind = message.get("type") if isinstance(message, dict) else None
    if kind == "unsubscribe":
        return Unsubscribe(read_name(message, "id", SUBSCRIPTION_NAME_LENGTH_MAX))
    if kind == "auth":
        if not isinstance(message.get("token"), str) or len(message) > 2:
            raise MessageInvalidError('expected {"type": "auth", "token": "..."}')  # and nothing of what it is instead
        return Auth(message["token"])
    if kind == "wait":
        if unknown := sorted(message.keys() - {"type", "transaction"}):
            raise MessageInvalidError(f"wait has no {unknown[0]!r:.80}; it has transaction")
        return Wait(read_name(message, "transaction", TRANSACTION_LENGTH_MAX))
    if kind != "subscribe":
        raise MessageInvalidError('expected {"type": "subscribe", "unsubscribe", "auth" or "wait", ...}')
    if unknown := sorted(message.keys() - _SUBSCRIBE_KEYS):
        raise MessageInvalidError(f"subscribe has no {unknown[0]!r:.80}; it has {', '.join(sorted(_SUBSCRIBE_KEYS))}")
    return Subscribe(
        id=read_name(message, "id", SUBSCRIPTION_NAME_LENGTH_MAX),
        topic=Topic(read_name(message, "stream"), read_name(message, "group")),
        item_id=None if message.get("item") is None else read_name(message, "item"),
        since=_since(message),
    )


class TidelogDialect:
    """Encodes for this process's sockets. It has no state."""

    merges_groups = True

    def key(self, subscriptions: Iterable[Subscription]) -> Hashable:
        """The names are on the wire."""
        return tuple((subscription.name, subscription.item_id) for subscription in subscriptions)

    def pieces(self, head: CommitHead, topic: Topic, part: GroupCommit, changes: Sequence[Change]) -> Sequence[Piece]:
        """A change as it stands in a commit; of an event all that comes after the position."""
        if part.prepared is not None and self in part.prepared:
            prepared: _Pieces = part.prepared[self]
            return prepared
        pieces = _change_pieces(topic, changes)
        if part.events:
            pieces += _event_pieces(topic, part.events)
        return pieces if len(pieces) < SHARED_PIECES_MIN else _Pieces(pieces)

    def prepare(
        self, head: CommitHead, topic: Topic, part: GroupCommit, changes: Sequence[Change]
    ) -> Generator[None, None, object]:
        """All of it."""
        pieces = _Pieces()
        for begin in range(0, len(changes), STEP_ROWS):
            pieces += _change_pieces(topic, changes[begin : begin + STEP_ROWS])
            yield
        for begin in range(0, len(part.events), STEP_ROWS):
            pieces += _event_pieces(topic, part.events[begin : begin + STEP_ROWS])
            yield
        yield from pieces.make_shared(head)
        return pieces

    def commit(self, head: CommitHead, shares: Sequence[Share]) -> Messages:
        """One message for the changes, and one for each event behind it."""
        if len(shares) == 1 and len(shares[0].pieces) >= SHARED_PIECES_MIN:
            ((subscriptions, pieces),) = shares
            if isinstance(pieces, _Pieces) and all(one.item_id is None for one in subscriptions):
                return pieces.told_to([one.name for one in subscriptions], head)
        names: list[str] = []
        changes: list[tuple[int, str]] = []
        events: list[tuple[int, str]] = []
        for subscriptions, pieces in shares:
            changed = {piece.item_id for piece in pieces if not piece.is_event}
            if changed:
                names += [one.name for one in subscriptions if one.item_id is None or one.item_id in changed]
            for seq, item_id, is_event, text in pieces:
                if not is_event:
                    changes.append((seq, text))
                    continue
                told = [one.name for one in subscriptions if one.item_id in (None, item_id)]
                message = f'{{"type":"event","subscriptions":{_names(told)},"position":{head.number},{text}'
                events.append((seq, message))
        messages = [text.encode() for _, text in sorted(events)]
        if changes:
            texts = ",".join(text for _, text in sorted(changes))
            message = f'{_commit(names)}{_place(head)},"changes":[{texts}]}}'
            messages.insert(0, message.encode())
        return Messages(messages)

    def ready(self, subscriptions: Sequence[Subscription]) -> Wording:
        names = [subscription.name for subscription in subscriptions]
        return Wording(COMMIT_SQL, (_commit(names), f'",{_address(subscriptions[0].topic)},"id":'))

    def items(self, rows: Iterable[Any]) -> list[str]:
        # A fifth of what a call for each costs; less than Postgres needs to make the same, which all would wait for.
        return [f'{{"id":{quote(id)},"version":{version},"data":{data}}}' for id, version, data in rows]

    def page(self, subscription: Subscription, position: int, epoch: str, items: bytes, *, more: bool) -> Messages:
        head = f'{{"type":"snapshot","subscription":{quote(subscription.name)},"position":{position},'
        tail = f'],"more":{json.dumps(more)}}}'
        return Messages([b"".join((head.encode(), f'"epoch":"{epoch}","items":['.encode(), items, tail.encode()))])

    def live(self, subscription: Subscription, position: int, epoch: str) -> Messages:
        return _message({"type": "live", "subscription": subscription.name, "position": position, "epoch": epoch})

    def reset(self, subscription: Subscription, reason: ResetReason, position: int, epoch: str) -> Messages:
        place = {"reason": reason, "position": position, "epoch": epoch}
        return _message({"type": "reset", "subscription": subscription.name, **place})

    def refuse(self, subscription: Subscription, code: str, message: str) -> Messages:
        return self.error(code, message, subscription.name)

    def passed(self, transaction: str, position: int) -> Messages:
        return _message({"type": "passed", "transaction": transaction, "position": position})

    def not_passed(self, transaction: str, code: str, message: str) -> Messages:
        return _message({"type": "error", "code": code, "message": message, "transaction": transaction})

    def error(self, code: str, message: str, name: str | None = None, retry_seconds: int | None = None) -> Messages:
        about: dict[str, Any] = {} if name is None else {"subscription": name}
        if retry_seconds is not None:
            about["retry_after"] = retry_seconds
        return _message({"type": "error", "code": code, "message": message, **about})

    def token_expires(self, at_seconds: float) -> Messages:
        return _message({"type": "token_expires", "at": _time(at_seconds * 1000)})

    def authenticated(self, expires_at_seconds: float | None) -> Messages:
        expires = {} if expires_at_seconds is None else {"expires": _time(min(expires_at_seconds, YEAR_9999) * 1000)}
        return _message({"type": "authenticated", **expires})

    def status(self, *, interrupted: bool, position: int, epoch: str) -> Messages:
        feed = "interrupted" if interrupted else "live"
        return _message({"type": "status", "feed": feed, "position": position, "epoch": epoch})

    def replay(self) -> TidelogDialect:
        return self


class _Pieces(list[Piece]):
    """What a commit did in one group. Of many pieces all is shared that doesn't depend on the names of those told."""

    __slots__ = ("_events", "_tail")

    _tail: bytes | None  # what comes after the position in the message of the changes
    _events: list[bytes]  # in those of the events

    def told_to(self, names: Sequence[str], head: CommitHead) -> Messages:
        """The messages for those who want the whole group."""
        if not hasattr(self, "_events"):
            for _ in self.make_shared(head):
                pass
        begin = f'{{"type":"event","subscriptions":{_names(names)},"position":{head.number},'.encode()
        events = [begin + event for event in self._events]
        if self._tail is None:
            return Messages(events)
        return SharedMessages(_commit(names).encode(), self._tail, events)

    def make_shared(self, head: CommitHead) -> Iterator[None]:
        in_order = sorted(self, key=itemgetter(0))
        texts: list[bytes] = []
        events: list[bytes] = []
        for begin in range(0, len(in_order), STEP_ROWS):
            some = in_order[begin : begin + STEP_ROWS]
            if text := ",".join([text for _, _, is_event, text in some if not is_event]):
                texts.append(text.encode())
            events += [text.encode() for _, _, is_event, text in some if is_event]
            yield
        head_text = f'{_place(head)},"changes":['.encode()
        self._tail = b"".join((head_text, b",".join(texts), b"]}")) if texts else None
        self._events = events


def _change_pieces(topic: Topic, changes: Iterable[Change]) -> list[Piece]:
    address = _address(topic)
    return [
        Piece(
            change.seq,
            change.id,
            False,
            f'{{"op":"{change.op}",{address},"id":{quote(change.id)},"version":{change.version},"data":{change.data}}}',
        )
        for change in changes
    ]


def _event_pieces(topic: Topic, events: Iterable[Event]) -> list[Piece]:
    address = _address(topic)
    pieces = []
    for event in events:
        item = "" if event.id is None else f'"id":{quote(event.id)},'
        body = f'{address},{item}"event":{{"type":{quote(event.type)},"data":{event.data}}}}}'
        pieces.append(Piece(event.seq, event.id, True, body))
    return pieces


def _message(value: dict[str, Any]) -> Messages:
    return Messages([json.dumps(value, separators=(",", ":")).encode()])


def _commit(names: Sequence[str]) -> str:
    return f'{{"type":"commit","subscriptions":{_names(names)},"position":'


def _place(head: CommitHead) -> str:
    return f'{head.number},"transaction":"{head.xid}","at":"{_time(head.at_ms)}"'


def _address(topic: Topic) -> str:
    return f'"stream":{quote(topic.stream)},"group":{quote(topic.group_id)}'


def _names(names: Sequence[str]) -> str:
    return f"[{','.join(map(quote, names))}]"


def _time(at_ms: float) -> str:
    """RFC 3339 with microseconds, which a double of milliseconds has room for."""
    seconds, microseconds = divmod(round(at_ms * 1000), 1_000_000)
    return f"{_second(seconds)}.{microseconds:06d}Z"


@lru_cache(maxsize=100)  # many commits are of one second
def _second(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).isoformat()


def _since(message: dict[str, Any]) -> Position | None:
    since = message.get("since")
    if since is None:
        return None
    if not isinstance(since, int) or isinstance(since, bool) or not 0 <= since <= POSITION_MAX:
        raise MessageInvalidError(f"since must be a position, an integer from 0, not {shown(since)}")
    if message.get("epoch") is None:
        raise MessageInvalidError("since needs the epoch that the position came with")
    return Position(since, read_name(message, "epoch"))
