"""POST that emits, with a topic as text and one as a dict with a label."""

config = {
    "type": "api",
    "name": "Order",
    "method": "POST",
    "path": "/orders",
    "emits": ["order.made", {"topic": "order.big", "label": "a big one", "conditional": True}],
    "virtualEmits": ["order.shown"],
    "flows": ["orders"],
}


async def handler(req, context):
    order = req["body"]
    await context.emit({"topic": "order.made", "data": order})
    if order["amount"] > 100:
        await context.emit({"topic": "order.big", "data": order})
    return {"status": 202, "body": {"trace": context.trace_id}}
