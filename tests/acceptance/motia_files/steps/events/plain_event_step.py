"""An event's handler that isn't async."""

config = {"type": "event", "name": "PlainEvent", "subscribes": ["order.big"], "emits": []}


def handler(input, context):
    context.streams.seen.set("plain-event", input["id"], {"amount": input["amount"]})
