"""One window with the example chat's page in it, as a person sees it; and a row written as psql would."""

from __future__ import annotations

import json
from typing import Any

import asyncpg
from playwright.async_api import Locator, Page, expect


class Window:
    """One window with the page in it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.troubles: list[str] = []
        self.requested: list[str] = []
        page.on("console", lambda message: self.troubles.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.troubles.append(str(error)))
        page.on("request", lambda request: self.requested.append(request.url))

    @property
    def text(self) -> Locator:
        return self.page.get_by_label("Message", exact=True)

    @property
    def bubbles(self) -> Locator:
        """The messages' texts, oldest first."""
        return self.page.locator(".message .bubble")

    @property
    def status(self) -> Locator:
        return self.page.get_by_role("status")

    @property
    def typing(self) -> Locator:
        return self.page.locator("#typing")

    def message(self, text: str) -> Locator:
        return self.page.get_by_role("listitem").filter(has_text=text)

    async def name(self) -> str:
        return await self.page.get_by_label("Your name").input_value()

    async def write(self, text: str) -> None:
        await self.text.fill(text)
        await self.text.press("Enter")

    async def shows(self, *texts: str) -> None:
        """Wait until these are the messages, in this order."""
        await expect(self.bubbles).to_have_text(list(texts))

    async def until_live(self) -> None:
        await expect(self.status).to_have_text("live")


async def insert(database_url: str, room: str, id: str, item: dict[str, Any]) -> None:
    """Write a message as psql would."""
    connection = await asyncpg.connect(database_url)
    await connection.execute(
        "insert into streams.chat_message (group_id, id, data) values ($1, $2, $3)", room, id, json.dumps(item)
    )
    await connection.close()
