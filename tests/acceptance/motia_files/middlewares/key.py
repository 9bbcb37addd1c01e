"""Middleware of several steps, in a folder beside theirs."""


async def needs_key(req, _context, next_fn):
    if req["headers"].get("x-key") != "open":
        return {"status": 401, "body": {"error": "no key"}}
    return await next_fn()


async def count(req, _context, next_fn):
    req["seen"] = 1
    answer = await next_fn()
    return {**answer, "headers": {"x-counted": "1"}}
