"""Who asks, by tokens that a test can choose; and what may go wrong on the way."""

import asyncio
import time

from tidelog import UnauthorizedError

USERS = {"token-of-ada": "ada", "token-of-eve": "eve", "token-of-root": "root"}


async def authenticate(request):
    token = request["token"]
    if token is None:
        return None
    if token == "token-that-breaks":
        raise ValueError(f"the users can't be read, looking for {token}")
    if token == "token-that-hangs":
        await asyncio.sleep(3600)
    if token.startswith("short-"):  # short-ada-2: ada, for two seconds
        _, subject, seconds = token.split("-", 2)
        return {"subject": subject, "expires_at": time.time() + float(seconds)}
    if token not in USERS:
        raise UnauthorizedError("nobody has this token")
    return {"subject": USERS[token]}
