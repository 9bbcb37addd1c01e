"""The example chat's page in a real browser: every window shows what is committed."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import httpx
from playwright.async_api import expect

from tests.acceptance.chat_page.conftest import Open
from tests.acceptance.chat_page.window import insert
from tests.conftest import StartServer
from tests.harness import Gate, Server

TYPING_SHOWN_MS = 3000  # the page's own constant
# The browser itself reports a connection that failed. Anything else on the console is the page's fault.
CONNECTION_FAILED = re.compile(r"WebSocket connection to .* failed|Failed to load resource: net::ERR_")


async def test_a_message_posted_in_one_window_appears_in_the_other(chat: Server, open_window: Open) -> None:
    """Two windows are two people with names of their own, and see each other's messages, edits and deletions."""
    one, other = await open_window(chat), await open_window(chat)
    assert await one.name() != await other.name()
    await expect(one.page.get_by_text("Nothing here yet")).to_be_visible()
    await one.write("hello")
    await other.shows("hello")
    await expect(one.page.get_by_text("Nothing here yet")).to_be_hidden()
    await expect(other.message("hello")).to_contain_text(await one.name())
    await other.write("hello to you")
    await one.shows("hello", "hello to you")

    await one.message("hello").first.hover()
    await one.page.get_by_role("button", name="Edit").click()
    await one.write("good morning")
    await other.shows("good morning", "hello to you")
    await expect(other.message("good morning")).to_contain_text("edited")
    await expect(one.page.get_by_role("button", name="Send")).to_be_visible()

    await one.message("good morning").hover()
    await one.page.get_by_role("button", name="Delete").click()
    await other.shows("hello to you")
    await expect(other.message("hello to you").get_by_role("button", name="Edit")).to_have_count(1)
    await expect(one.page.get_by_role("button", name="Edit")).to_have_count(0)  # it isn't theirs


async def test_typing_is_shown_until_the_message_comes_or_the_typist_stops(chat: Server, open_window: Open) -> None:
    """ "... is typing" appears in the other window only; a message ends it at once, silence after three seconds."""
    one, other = await open_window(chat), await open_window(chat)
    # Time stands still, so that nothing ends it but what the test does.
    await other.page.clock.install()
    await other.page.clock.pause_at("2100-01-01")
    await one.text.press_sequentially("h")
    await expect(other.typing).to_have_text(f"{await one.name()} is typing …")
    await expect(one.typing).to_be_empty()
    await one.text.press("Enter")
    await other.shows("h")
    await expect(other.typing).to_be_empty()

    async with chat.http() as http:
        room = httpx.URL(one.page.url).fragment
        await http.post(f"/chat/{room}/typing", json={"author": "<i>grace</i>"})
        await expect(other.typing).to_have_text("<i>grace</i> is typing …")
    await other.page.clock.fast_forward(TYPING_SHOWN_MS)
    await expect(other.typing).to_be_empty()


async def test_the_bots_answer_grows_word_by_word_in_both_windows(chat: Server, open_window: Open) -> None:
    """Each window shows every word's commit, one after the other, from the first word to the last."""
    windows = [await open_window(chat), await open_window(chat)]
    for window in windows:
        await window.page.evaluate(
            """() => {
                window.seen = []
                new MutationObserver(() => {
                    const text = document.querySelector('.message:nth-child(2) .bubble')?.textContent
                    if (text && text !== seen.at(-1)) seen.push(text)
                }).observe(document.getElementById('messages'), { subtree: true, childList: true })
            }"""
        )
    await windows[0].text.fill("Why?")
    await windows[0].page.get_by_role("button", name="Ask the bot").click()
    for window in windows:
        await expect(window.bubbles).to_have_count(2)
        await expect(window.message("after it.")).to_have_attribute("aria-busy", "false")
        words = (await window.bubbles.nth(1).inner_text()).split()
        assert words[:3] == ["You", "asked:", "“Why?”"]
        assert await window.page.evaluate("seen") == [" ".join(words[:n]) for n in range(1, len(words) + 1)]


async def test_an_answer_ends_when_whoever_asked_has_gone(chat: Server, open_window: Open, room: str) -> None:
    """The others don't see the bot write forever when the window that asked it is closed."""
    asking, other = await open_window(chat), await open_window(chat)
    async with Gate.closed(chat.database_url) as gate, held_at_the_question(chat, room, gate):
        await asking.page.get_by_role("button", name="Ask the bot").click()
        word = await gate.reached()
        await expect(other.message("You asked: “What is Tidelog?”")).to_have_attribute("aria-busy", "true")
        await asking.page.close()
        await gate.left(word)
    await expect(other.message("You asked: “What is Tidelog?”")).to_have_attribute("aria-busy", "false")
    assert "after it." not in await other.bubbles.nth(1).inner_text()


@asynccontextmanager
async def held_at_the_question(chat: Server, room: str, gate: Gate) -> AsyncIterator[None]:
    """Once it has repeated the question, the bot's next word waits at the gate; which is opened at the end."""
    connection = await asyncpg.connect(chat.database_url)
    await connection.execute(
        f"""create function wait_at_the_gate() returns trigger language plpgsql
            as $$ begin perform {gate.pass_sql.removeprefix("select ")}; return new; end $$;
            create trigger a_gate before update on streams.chat_message for each row
            when (old.group_id = '{room}' and old.data ->> 'text' like '%?”') execute function wait_at_the_gate()"""
    )
    try:
        yield
    finally:
        await gate.open()
        await connection.execute("drop function wait_at_the_gate() cascade")
        await connection.close()


async def test_a_window_catches_up_after_the_server_was_killed(
    start_server: StartServer, database_url: str, open_window: Open, room: str
) -> None:
    """It says that it is reconnecting; then it shows what was written and deleted meanwhile, and nothing twice."""
    server = await start_server()
    window = await open_window(server)
    await window.write("before")
    await window.write("to be deleted")
    await window.shows("before", "to be deleted")
    await server.kill()
    await expect(window.status).to_have_text("reconnecting")

    await window.write("into the void")
    await expect(window.page.get_by_role("alert")).to_contain_text("No answer from the server")
    await expect(window.text).to_have_value("into the void")  # to be sent again
    await insert(
        database_url, room, "by-sql", {"author": "psql", "text": "meanwhile", "sentAt": "2020-02-29T12:00:00Z"}
    )
    connection = await asyncpg.connect(database_url)
    await connection.execute("delete from streams.chat_message where data ->> 'text' = 'to be deleted'")
    await connection.close()

    await start_server(port=server.port)
    await window.until_live()
    await window.shows("before", "meanwhile")
    await expect(window.message("meanwhile")).to_contain_text("Feb 29, 2020")  # not only a time: it isn't today's
    await window.text.press("Enter")
    await window.shows("before", "meanwhile", "into the void")
    await expect(window.page.get_by_role("alert")).to_be_hidden()
    assert window.troubles, "the browser reports the connections that failed"
    window.troubles[:] = [trouble for trouble in window.troubles if not CONNECTION_FAILED.match(trouble)]
