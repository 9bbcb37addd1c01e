"""What the rules of these streams go by; a test changes it in the database."""

import asyncio
import os

import asyncpg

_connection = None
_lock = asyncio.Lock()


async def sql(statement, *parameters):
    """The first value of a statement."""
    global _connection
    async with _lock:
        if _connection is None:
            _connection = await asyncpg.connect(os.environ["TIDELOG_DATABASE_URL"])
        return await _connection.fetchval(statement, *parameters)


async def is_owner(subscription, auth):
    """A group is its user's, unless somebody else was let in."""
    if auth is None:
        return False
    if subscription["groupId"] == auth["subject"] or auth["subject"] == "root":
        return True
    return bool(
        await sql("select true from member where grp = $1 and subject = $2", subscription["groupId"], auth["subject"])
    )


async def note(what, subscription, auth):
    await sql(
        "insert into noted (what, grp, subject) values ($1, $2, $3)",
        what,
        subscription["groupId"],
        auth and auth["subject"],
    )
