"""Opening handshakes of WebSockets that can't be taken for one: what they lack, and who has mostly taken it from them.

https://www.rfc-editor.org/rfc/rfc6455#section-4.2.1
"""

from __future__ import annotations

from collections.abc import Iterable

from tidelog.errors import UpgradeRequiredError, shown

VERSION = b"13"

Headers = Iterable[tuple[bytes, bytes]]

# The headers concern one connection only, so that proxies drop them unless they are told (RFC 9110 7.6.1).
HINT = (
    "a proxy on the way has to pass them on; in nginx: proxy_http_version 1.1; "
    'proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";'
)


def is_sign_of_one(name: bytes, value: bytes) -> bool:
    """Whether only those who want a WebSocket send this header; what is left of one by a proxy, too."""
    return name == b"sec-websocket-key" or (name == b"upgrade" and b"websocket" in value.lower())


def is_whole(method: str, headers: Headers) -> bool:
    """Whether this request, which asks for an upgrade, has what makes it a handshake."""
    found = dict(headers)
    return method == "GET" and b"sec-websocket-key" in found and found.get(b"sec-websocket-version") == VERSION


def upgrade_required(headers: Headers) -> UpgradeRequiredError:
    """What to tell a client whose handshake came as a plain request."""
    found = dict(headers)
    version = found.get(b"sec-websocket-version", VERSION)
    if version != VERSION:
        return UpgradeRequiredError(
            f"a WebSocket of version {shown(version.decode('latin-1'))} was asked for: this server speaks 13"
        )
    options = {option.strip() for option in found.get(b"connection", b"").lower().split(b",")}
    lost = [] if b"upgrade" in options else ["Connection: Upgrade"]
    lost += [] if found.get(b"upgrade", b"").lower() == b"websocket" else ["Upgrade: websocket"]
    lost += [] if b"sec-websocket-key" in found else ["Sec-WebSocket-Key"]
    lost += [] if b"sec-websocket-version" in found else ["Sec-WebSocket-Version: 13"]
    if not lost:
        return UpgradeRequiredError(
            "the server program takes no WebSockets: run uvicorn with --ws tidelog.web.protocol:SocketProtocol"
        )
    return UpgradeRequiredError(f"a WebSocket's handshake came without {', '.join(lost)}: {HINT}")


def upgrade_out_of_turn() -> UpgradeRequiredError:
    """What to tell a client whose handshake came while it was owed the answer to another request."""
    return UpgradeRequiredError(
        "a WebSocket's handshake came before an earlier request on its connection was answered: wait for the answer, "
        "or open another connection"
    )
