"""What reads answer, as JSON. What is stored goes out as the text that Postgres has; nothing parses it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import UTC
from typing import Any

from pydantic_core import to_json

from tidelog.store.reads import Page, Place


def streams_body(streams: Iterable[dict[str, Any]], place: Place) -> bytes:
    return b'{"streams":%b,%b}' % (to_json(list(streams)), _of_place(place))


def groups_body(page: Page) -> bytes:
    names = [row["group_id"] for row in page.rows]
    return b'{"groups":%b,"next":%b,%b}' % (
        to_json(names), to_json(names[-1] if page.has_more and names else None), _of_place(page.place)
    )  # fmt: skip


def items_body(page: Page) -> bytes:
    last = page.rows[-1]["id"] if page.has_more else None
    return b'{"items":[%b],"next":%b,%b}' % (b",".join(map(_item, page.rows)), to_json(last), _of_place(page.place))


def item_body(row: Any, place: Place) -> bytes:
    return b'{"item":%b,%b}' % (_item(row), _of_place(place))


def history_body(page: Page) -> bytes:
    last = page.rows[-1] if page.has_more else None
    following = None if last is None else f"{last['position']}.{last['seq']}"
    return b'{"changes":[%b],"next":%b,"floor":%d,%b}' % (
        b",".join(map(_change, page.rows)), to_json(following), page.place.floor, _of_place(page.place)
    )  # fmt: skip


def etag_of(row: Any, place: Place) -> str:
    """Weak, as the position beside the item moves on. With its content, since an item that comes anew has version 1."""
    content = hashlib.blake2b((row["data"] or "").encode(), key=place.epoch.encode(), digest_size=9).hexdigest()
    return f'W/"{row["version"]}-{content}"'


def is_among(etag: str, if_none_match: str) -> bool:
    """Whether the client has it: RFC 9110 13.1.2, by weak comparison."""
    given = [one.strip().removeprefix("W/") for one in if_none_match.split(",")]
    return "*" in given or etag.removeprefix("W/") in given


def _item(row: Any) -> bytes:
    return b'{"id":%b,"version":%d,"data":%b%b}' % (
        to_json(row["id"]), row["version"], _stored(row["data"]), _erased(row)
    )  # fmt: skip


def _change(row: Any) -> bytes:
    return b'{"position":%d,"at":"%b","transaction":"%d","op":"%b","id":%b,"version":%d,"data":%b%b}' % (
        row["position"], row["at"].astimezone(UTC).isoformat().encode(), row["xid"], row["op"].encode(),
        to_json(row["id"]), row["version"], _stored(row["data"]), _erased(row),
    )  # fmt: skip


def _stored(data: str | None) -> bytes:
    return b"null" if data is None else data.encode()


def _erased(row: Any) -> bytes:
    """Only where it is so: it seldom is."""
    return b',"erased":true' if row["is_erased"] else b""


def _of_place(place: Place) -> bytes:
    return b'"position":%d,"epoch":%b' % (place.position, to_json(place.epoch))
