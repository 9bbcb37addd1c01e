"""Do what the fault suite's step writer planned, in one transaction."""

from litestar.exceptions import ClientException
from sqlalchemy import text

config = {
    "type": "api",
    "name": "Write",
    "description": "Sets, deletes and events in one transaction",
    "method": "POST",
    "path": "/write",
    "retries": 2,
    "emits": [],
}


async def handler(req, context):
    effects = []
    for kind, stream, group, id, data in req["body"]["plan"]:
        calls = context.streams[stream]
        if kind == "set":
            await calls.set(group, id, data)
            effects.append(["set", stream, group, id, data["stamp"]])
        elif kind == "delete":
            if (deleted := await calls.delete(group, id)) is not None:
                effects.append(["delete", stream, group, id, deleted["stamp"]])
        else:
            await calls.send({"groupId": group, "id": id}, {"type": "note", "data": data})
            effects.append(["event", stream, group, id, data["stamp"]])
    xid = (await context.db.execute(text("select pg_current_xact_id()::text"))).scalar_one()
    if req["body"]["fail"]:
        raise ClientException("this one was to be rolled back")
    return {"status": 200, "body": {"xid": int(xid), "effects": effects}}
