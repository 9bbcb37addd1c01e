"""State, by a request: one value, a group, and its end."""

config = {"type": "api", "name": "Recall", "method": "GET", "path": "/orders", "emits": []}


async def handler(_req, context):
    values = await context.state.get_group("orders")
    await context.state.delete("orders", "none")
    await context.state.clear("elsewhere")
    return {"status": 200, "body": {"amounts": [value["amount"] for value in values]}}
