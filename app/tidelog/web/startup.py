"""Why the application can't start, told by its server in a line, where Litestar would have it show a traceback."""

from __future__ import annotations

from litestar import Litestar
from litestar.types import LifeSpanSend, LifeSpanSendMessage

_REFUSAL = "tidelog_refusal"  # in the application's state


def refuse(app: Litestar, words: str) -> None:
    """What raises now in the application's lifespan is `words` to a person."""
    app.state[_REFUSAL] = words


def with_refusal(send: LifeSpanSend, app: Litestar) -> LifeSpanSend:
    """`send` of an application's lifespan, with its own words."""

    async def tell(message: LifeSpanSendMessage) -> None:
        if message["type"] == "lifespan.startup.failed" and _REFUSAL in app.state:
            message["message"] = app.state[_REFUSAL]
        await send(message)

    return tell
