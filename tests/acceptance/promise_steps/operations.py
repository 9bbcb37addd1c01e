"""What a step may be told to do: a list of operations, each a list of its name and arguments."""

from sqlalchemy import text


async def run(operations, context):
    """Do them in their order; returns what the last one says, or 200."""
    answer = {"status": 200}
    for name, *arguments in operations:
        if name == "set":
            stream, group, id, data = arguments
            await context.streams[stream].set(group, id, data)
        elif name == "delete":
            stream, group, id = arguments
            await context.streams[stream].delete(group, id)
        elif name == "send":
            stream, group, id, type, data = arguments
            channel = {"groupId": group, "id": id} if id else {"groupId": group}
            await context.streams[stream].send(channel, {"type": type, "data": data})
        elif name == "sql":
            await context.db.execute(text(*arguments))
        elif name == "answer":
            (answer,) = arguments
        else:
            raise ValueError(f"told to fail: {name}")
    return answer
