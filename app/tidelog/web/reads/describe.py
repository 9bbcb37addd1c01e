"""The reads in the OpenAPI document: their paths, as plain dicts."""

from __future__ import annotations

from typing import Any

from tidelog.web.reads.parameters import LIMIT_DEFAULT, LIMIT_MAX

Document = dict[str, Any]

_TEXT: Document = {"type": "string"}
_OBJECT: Document = {"type": ["object", "null"]}
_NEXT: Document = {"type": ["string", "null"], "description": "`after` of the next page; null at the end"}
_POSITION: Document = {"type": "integer", "description": "the commit as of which the answer is"}
_EPOCH: Document = {"type": "string", "description": "the database history that positions belong to"}
_VERSION: Document = {"type": "integer"}
_ERASED: Document = {"const": True, "description": "what it was has been erased; else it isn't there"}

_STREAM: Document = {"name": "stream", "in": "path", "required": True, "schema": _TEXT}
_ITEM = {"type": "object", "properties": {"id": _TEXT, "version": _VERSION, "data": _OBJECT, "erased": _ERASED}}
_CHANGE = {
    "type": "object",
    "properties": {
        "position": _VERSION,
        "at": {"type": "string", "format": "date-time"},
        "transaction": _TEXT,
        "op": {"enum": ["create", "update", "delete"]},
        "id": _TEXT,
        "version": _VERSION,
        "data": _OBJECT,
        "erased": _ERASED,
    },
}
_WAIT_FOR = ("wait_for", "a step's Tidelog-Transaction: the answer comes when the feed has passed it", _TEXT)
_AT = ("at", "as of this position, or this time with its zone (RFC 3339)", _TEXT)
_AFTER = ("after", "go on behind this one: `next` of the page before", _TEXT)
_LIMIT = (
    "limit",
    "at most so many; a page is also bounded in bytes",
    {"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": LIMIT_DEFAULT},
)
_GROUP = ("group", "the group's id", _TEXT)


def describe_reads(below: str) -> Document:
    """`paths` of the document, for the reads `below` a path."""
    return {
        f"{below}/streams": _get(
            "ListStreams", "The streams that you may list", [], _answer(streams={"type": "array", "items": _named()}),
            _WAIT_FOR,
        ),
        f"{below}/streams/{{stream}}/groups": _get(
            "ListGroups", "The groups of a stream that have items", [_STREAM],
            _answer(groups={"type": "array", "items": _TEXT}, next=_NEXT),
            ("prefix", "those that begin so", _TEXT), _AFTER, _LIMIT, _AT, _WAIT_FOR,
        ),
        f"{below}/streams/{{stream}}/items": _get(
            "ReadItems", "The items of a group in the order of their ids; or one, with its ETag", [_STREAM],
            {"oneOf": [_answer(items={"type": "array", "items": _ITEM}, next=_NEXT), _answer(item=_ITEM)]},
            _GROUP, ("id", "this item alone", _TEXT), _AFTER, _LIMIT, _AT, _WAIT_FOR,
        ),
        f"{below}/streams/{{stream}}/history": _get(
            "ReadHistory", "What happened in a group, or to an item, in the order of the feed", [_STREAM],
            _answer(changes={"type": "array", "items": _CHANGE}, next=_NEXT, floor=_VERSION),
            _GROUP, ("id", "this item alone", _TEXT), ("from", "from this commit on, or after this time", _TEXT),
            ("to", "up to this commit, or time", _TEXT), ("at", "the same as `to`", _TEXT), _AFTER, _LIMIT, _WAIT_FOR,
        ),
    }  # fmt: skip


def _named() -> Document:
    return {"type": "object", "properties": {"name": _TEXT, "schema": {"description": "JSON Schema of its items"}}}


def _answer(**properties: Document) -> Document:
    return {"type": "object", "properties": {**properties, "position": _POSITION, "epoch": _EPOCH}}


def _get(
    name: str, summary: str, path: list[Document], schema: Document, *parameters: tuple[str, str, Document]
) -> Document:
    error = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
    return {
        "get": {
            "operationId": name,
            "summary": summary,
            "tags": ["streams"],
            "parameters": [
                *path,
                *(
                    {"name": each, "in": "query", "description": said, "schema": kind, "required": each == "group"}
                    for each, said, kind in parameters
                ),
            ],
            "responses": {
                "200": {"description": "As of `position`", "content": {"application/json": {"schema": schema}}},
                "default": {"description": "Refused, or not to be had", **error},
            },
        }
    }
