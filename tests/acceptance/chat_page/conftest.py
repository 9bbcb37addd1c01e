"""A browser, a server with the example, and windows."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
from playwright.async_api import Browser, BrowserContext, async_playwright, expect

from tests.acceptance.chat_page.window import Window
from tests.harness import Databases, Server, free_port

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# Nothing but the server under test is looked up or talked to; the profile is an empty one that Playwright makes.
OPTIONS = [
    "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]  # fmt: skip
TIMEOUT_MS = 60_000

Open = Callable[..., Awaitable[Window]]


@pytest.fixture(scope="package")
async def browser() -> AsyncIterator[Browser]:
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        pytest.skip("needs Chromium (one of: " + ", ".join(BROWSERS) + ") on the PATH")
    expect.set_options(timeout=TIMEOUT_MS)
    as_root = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium's sandbox does not work for root
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable, args=OPTIONS + as_root)
        yield browser
        await browser.close()


@pytest.fixture(scope="package")
async def chat(browser: Browser, databases: Databases, template_database: str) -> AsyncIterator[Server]:
    """One server with the example for all tests here; each has a room of its own."""
    url = await databases.create(template=template_database)
    # Steps wait at gates for as long as a test takes.
    server = Server(url, None, {"TIDELOG_STEP_LOCK_TIMEOUT_SECONDS": "0"}, free_port())
    await server.wait_until_ready()
    yield server
    await server.stop()
    await databases.drop(url)


@pytest.fixture
def room(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)[:60]


@pytest.fixture
async def open_window(browser: Browser, room: str) -> AsyncIterator[Open]:
    """`await open_window(server)`: a window of a person's own, live. At the end none may have had troubles."""
    windows: list[Window] = []
    contexts: list[BrowserContext] = []

    async def open(server: Server, **options: Any) -> Window:
        context = await browser.new_context(locale="en-US", **options)
        context.set_default_timeout(TIMEOUT_MS)
        contexts.append(context)
        window = Window(await context.new_page())
        windows.append(window)
        await window.page.goto(f"{server.url}/#{room}")
        await window.until_live()
        return window

    yield open
    for context in contexts:
        await context.close()
    assert [trouble for window in windows for trouble in window.troubles] == []
    assert {httpx.URL(url).host for window in windows for url in window.requested} == {"127.0.0.1"}
