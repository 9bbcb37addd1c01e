"""State, from the handler of an event, by a dict's field or by `data`."""

config = {"type": "event", "name": "Remember", "subscribes": ["order.made"], "emits": []}


async def handler(input, context):
    await context.state.set("orders", input["id"], {"amount": input["amount"]})
    kept = await context.state.get("orders", input["id"])
    assert kept["amount"] == kept["data"]["amount"]
