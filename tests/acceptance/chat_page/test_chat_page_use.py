"""The example chat's page in a real browser: it is good to use, whatever is written and on whatever screen."""

from __future__ import annotations

import asyncio

import asyncpg
from playwright.async_api import Route, expect

from tests.acceptance.chat_page.conftest import Open
from tests.acceptance.chat_page.window import Window, insert
from tests.harness import Server

NARROW = {"width": 320, "height": 568}


async def test_html_in_a_message_is_shown_as_text(chat: Server, open_window: Open, room: str) -> None:
    """Neither a message nor its author becomes markup; nor does an item without what the page expects."""
    window = await open_window(chat)
    html = "<img src=x onerror=alert(1)><b>bold</b> & <script>alert(2)</script>"
    await window.write(html)
    await window.shows(html)
    await insert(chat.database_url, room, "<i>", {"author": "<u>eve</u>", "text": "</li>", "sentAt": "<s>"})
    await insert(chat.database_url, room, "bare", {"text": 5})
    await window.shows(html, "</li>", "5")
    await expect(window.message("</li>")).to_contain_text("<u>eve</u>")
    assert await window.page.locator(".message :is(img, script, u, s, i, .bubble *)").count() == 0


async def test_a_refused_message_comes_back_with_the_reason(chat: Server, open_window: Open) -> None:
    """What the step's bodySchema does not take is told where one writes, and the text is not lost."""
    window = await open_window(chat)
    too_long = "x" * 2001
    await window.text.evaluate("(field, text) => { field.value = text }", too_long)  # typed, it ends at 2000
    await window.text.press("Enter")
    await expect(window.page.get_by_role("alert")).to_contain_text("/text: ")
    await expect(window.text).to_have_value(too_long)
    await window.shows()
    assert [trouble for trouble in window.troubles if "400" in trouble]
    window.troubles.clear()  # the browser reports every answer of 400


async def test_the_keyboard_is_enough(chat: Server, open_window: Open) -> None:
    """Write, break lines, send, edit, cancel, delete: the focus is always where the next key belongs."""
    window = await open_window(chat)
    press = window.page.keyboard.press
    await expect(window.text).to_be_focused()
    await window.page.keyboard.type("one")
    await press("Shift+Enter")
    await window.page.keyboard.type("two")
    await press("Enter")
    await window.shows("one\ntwo")
    await expect(window.text).to_have_value("")

    await window.page.keyboard.type("a draft")
    await press("Shift+Tab")
    await press("Shift+Tab")
    await expect(window.page.get_by_role("button", name="Edit")).to_be_focused()
    await press("Enter")
    await expect(window.text).to_be_focused()
    await expect(window.text).to_have_value("one\ntwo")
    await window.page.keyboard.type(" three")
    await press("Escape")
    await expect(window.text).to_have_value("a draft")
    await window.shows("one\ntwo")

    await window.page.get_by_role("button", name="Edit").press("Enter")
    await press("ControlOrMeta+a")
    await window.page.keyboard.type("three")
    await press("Enter")
    await window.shows("three")
    await expect(window.text).to_be_focused()
    await expect(window.text).to_have_value("a draft")

    await press("Shift+Tab")
    await expect(window.page.get_by_role("button", name="Delete")).to_be_focused()
    await press("Enter")
    await window.shows()
    await expect(window.text).to_be_focused()


async def test_messages_sent_in_quick_succession_stay_in_order(chat: Server, open_window: Open) -> None:
    """Whoever writes faster than the server answers sees the messages in the order of writing."""
    window, answering = await open_window(chat), asyncio.Event()

    async def hold(route: Route) -> None:
        await answering.wait()
        await route.continue_()

    await window.page.route("**/messages", hold)
    await window.write("first")
    await window.write("second")
    await window.page.evaluate("new Promise(requestAnimationFrame)")  # all that was to be requested by now is
    assert len([url for url in window.requested if url.endswith("/messages")]) == 1
    answering.set()
    await window.shows("first", "second")


async def test_a_message_deleted_while_it_is_edited_leaves_its_text(chat: Server, open_window: Open, room: str) -> None:
    """The editor is told, and what was written is still in the composer."""
    window = await open_window(chat)
    await window.write("mine")
    await window.page.get_by_role("button", name="Edit").click()
    await window.text.fill("mine, and better")
    connection = await asyncpg.connect(chat.database_url)
    await connection.execute("delete from streams.chat_message where group_id = $1", room)
    await connection.close()
    await expect(window.page.get_by_role("alert")).to_contain_text("was deleted")
    await window.text.press("Enter")
    await window.shows("mine, and better")


async def test_everything_fits_a_narrow_screen(chat: Server, open_window: Open) -> None:
    """On a phone nothing runs over the edge: not long words, nor long names, nor any button."""
    window = await open_window(chat, viewport=NARROW, has_touch=True, is_mobile=True)
    await window.page.get_by_label("Your name").fill("W" * 40)
    await window.write("x" * 500)
    await window.shows("x" * 500)
    await expect(window.page.get_by_role("button", name="Edit")).to_be_visible()
    for width in await window.page.evaluate(
        "[document.documentElement, document.getElementById('scroll')].map((element) => element.scrollWidth)"
    ):
        assert width <= NARROW["width"]
    for element in await window.page.locator("button:visible, input:visible, .bubble, #status").all():
        box = await element.bounding_box()
        assert box is not None
        assert box["x"] >= 0 and box["x"] + box["width"] <= NARROW["width"], await element.evaluate("e => e.outerHTML")


async def test_a_long_room_stays_where_the_reader_is(chat: Server, open_window: Open, room: str) -> None:
    """Of 300 messages the newest is in view; it stays so at the end, and whoever reads further up is left alone."""
    connection = await asyncpg.connect(chat.database_url)
    await connection.execute(
        """insert into streams.chat_message (group_id, id, data)
           select $1, to_char(n, 'FM000'), jsonb_build_object(
               'author', 'ada', 'text', 'message ' || n, 'sentAt', now() + n * interval '1 second')
           from generate_series(1, 300) as n""",
        room,
    )
    window = await open_window(chat)
    newest, first = window.page.get_by_role("button", name="Newest messages"), window.message("message 1").first
    await expect(window.bubbles).to_have_count(300)
    await expect(window.message("message 300")).to_be_in_viewport()
    await insert(chat.database_url, room, "301", {"author": "ada", "text": "message 301"})
    await expect(window.message("message 301")).to_be_in_viewport()

    await expect(newest).to_be_hidden()
    await first.scroll_into_view_if_needed()
    await expect(newest).to_be_visible()
    await insert(chat.database_url, room, "302", {"author": "ada", "text": "message 302"})
    await expect(window.bubbles).to_have_count(302)
    await expect(first).to_be_in_viewport()
    await newest.click()
    await expect(window.message("message 302")).to_be_in_viewport()

    # The work for a change does not grow with the room: one element is touched.
    await window.page.evaluate(
        """() => {
            window.touched = new Set()
            const note = ({ target }) => touched.add(target.closest('.message'))
            new MutationObserver((records) => records.forEach(note)).observe(
                document.getElementById('messages'), { subtree: true, childList: true, attributes: true })
        }"""
    )
    await connection.execute(
        """update streams.chat_message set data = data || '{"text": "changed"}' where group_id = $1 and id = '150'""",
        room,
    )
    await connection.close()
    await expect(window.bubbles.nth(149)).to_have_text("changed")
    assert await window.page.evaluate("[...touched].map((element) => element.dataset.id)") == ["150"]


async def test_a_room_has_a_link_to_be_shared(chat: Server, open_window: Open, room: str) -> None:
    """The copied link opens the same room; another name goes to another room, whatever signs are in it."""
    window = await open_window(chat, permissions=["clipboard-read", "clipboard-write"])
    await window.write("here")
    # Time stands still, for the button says so for two seconds only.
    await window.page.clock.install()
    await window.page.clock.pause_at("2100-01-01")
    await window.page.get_by_role("button", name="Copy link").click()
    await expect(window.page.get_by_role("button", name="Copied")).to_be_visible()
    await window.page.clock.resume()
    link = await window.page.evaluate("navigator.clipboard.readText()")
    assert link == f"{chat.url}/#{room}"
    async with window.page.context.expect_page() as opened:
        await window.page.evaluate("(link) => open(link, '_blank', 'noopener')", link)
    other = Window(await opened.value)
    await other.shows("here")

    await window.page.get_by_label("Room").fill("Größe 4/5 '%")
    await window.page.get_by_label("Room").press("Enter")
    await expect(window.page).to_have_title("#Größe-4-5- · Tidelog")
    await window.until_live()
    await window.write("there")
    await window.shows("there")
    await other.shows("here")
