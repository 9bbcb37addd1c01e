"""The chat's web page: one file, no build step."""

import base64
import hashlib
import re
from pathlib import Path

PAGE = (Path(__file__).parent / "chat_page.html").read_text()


def content_security_policy(page):
    """Allow the page's own script and style, by their hashes, and connections home; nothing else.

    What isn't covered by default-src is named: forms (the page's own are handled by its script), base, framing.
    """
    allowed = {}
    for tag in ("script", "style"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        allowed[tag] = f"{tag}-src 'sha256-{digest}'"
    elsewhere = "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    return f"default-src 'none'; connect-src 'self'; img-src data:; {'; '.join(allowed.values())}; {elsewhere}"


HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": content_security_policy(PAGE),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}

config = {
    "type": "api",
    "name": "ChatPage",
    "description": "The chat's web page",
    "method": "GET",
    "path": "/",
    "emits": [],
    "flows": ["chat"],
}


async def handler(req):
    return {"status": 200, "headers": HEADERS, "body": PAGE}
