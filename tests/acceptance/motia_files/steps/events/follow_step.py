"""The changes of a stream, some of them."""

config = {
    "type": "stream",
    "name": "Follow",
    "streamName": "note",
    "condition": lambda input, context: input["event"]["type"] == "create",
    "emits": [],
}


async def handler(input, context):
    await context.streams.seen.set("follow", input["id"], {"text": input["event"]["data"]["text"]})
