"""Statements of writers, and what the log has of them."""

from __future__ import annotations

from typing import Any

import asyncpg

from tidelog.store.log import Numbering

INSERT = "insert into streams.chat_message (group_id, id, data) values ($1, $2, $3)"
UPDATE = "update streams.chat_message set data = $3 where group_id = $1 and id = $2"
DELETE = "delete from streams.chat_message where group_id = $1 and id = $2"
ROW = "select * from streams.chat_message where group_id = $1 and id = $2"


async def log_of(sql: asyncpg.Connection[Any], group: str) -> list[tuple[Any, ...]]:
    """The group's changes, in the order of writing: (op, id, version, data without its id)."""
    rows = await sql.fetch(
        "select op, id, version, data - 'id' as data from streams.change where group_id = $1 order by seq", group
    )
    return [tuple(row) for row in rows]


async def number(sql: asyncpg.Connection[Any]) -> list[Any]:
    """Number what is visible, as a sequencer would; returns the xids of these commits in their order."""
    numbering = await Numbering.load(sql)
    before = numbering.number
    await numbering.advance(sql)
    return [
        row["xid"]
        for row in await sql.fetch("select xid from streams.commit where number > $1 order by number", before)
    ]
