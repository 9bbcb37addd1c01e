"""The server that a client connects to: its address, what is said to it at first, and what a failure means."""

from __future__ import annotations

import inspect
import socket as sockets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidMessage, InvalidStatus, InvalidURI
from websockets.typing import Subprotocol

from tidelog.errors import ServerRefusedError

DIALECT = Subprotocol("tidelog.v1")
FRAME_SIZE_MAX_BYTES = 64 * 1024 * 1024  # a commit's frame has up to 16 MiB of changes; an item may be larger
CLOSE_TIMEOUT_SECONDS = 2.0

FORBIDDEN = 403
NOT_FOUND = 404
TOO_MANY_REQUESTS = 429

Token = str | Callable[[], str | Awaitable[str]]


class Server:
    """Where a client connects to, as often as it must."""

    def __init__(self, url: str, token: Token | None, connect_options: Mapping[str, Any]) -> None:
        """`connect_options` are those of `websockets.asyncio.client.connect`."""
        self.shown = _without_secrets(url)
        self._url = url
        self._token = token
        self._options: dict[str, Any] = {
            "compression": None,
            "max_size": FRAME_SIZE_MAX_BYTES,
            "close_timeout": CLOSE_TIMEOUT_SECONDS,
            **connect_options,
            "additional_headers": dict(connect_options.get("additional_headers") or {}),
        }

    @property
    def has_other_tokens(self) -> bool:
        """Whether the next token may be another than the last."""
        return callable(self._token)

    async def token(self) -> str | None:
        """The one to be used now. Raises what the author's function raises."""
        if self._token is None or isinstance(self._token, str):
            return self._token
        given = self._token()
        return await given if inspect.isawaitable(given) else given

    async def connect(self) -> ClientConnection:
        """A connection that speaks the dialect. Raises ServerRefusedError, or what is worth another try."""
        options = self._options
        token = await self.token()
        if token is not None:
            headers = {**options["additional_headers"], "Authorization": f"Bearer {token}"}
            options = {**options, "additional_headers": headers}
        try:
            socket = await connect(self._url, subprotocols=[DIALECT], **options)
        except InvalidURI as error:
            raise ServerRefusedError(
                f"{self.shown} is no address of a WebSocket: write ws://host:port, or wss:// where there is TLS"
            ) from error
        except Exception as error:
            if _may_pass(error):
                raise
            raise ServerRefusedError(f"{self.shown} refused the connection: {error}{_hint(error)}") from error
        if socket.subprotocol != DIALECT:
            await socket.close()
            raise ServerRefusedError(f"{self.shown} does not speak {DIALECT}: is it a Tidelog server, and new enough?")
        return socket


def _may_pass(error: Exception) -> bool:
    """Whether a connection that could not be opened may be opened some time later."""
    if isinstance(error, InvalidStatus):
        return error.response.status_code >= 500 or error.response.status_code == TOO_MANY_REQUESTS
    # A connection that ends in the middle of the handshake is an InvalidMessage from EOFError.
    return isinstance(error, OSError) or (isinstance(error, InvalidMessage) and isinstance(error.__cause__, EOFError))


def _hint(error: Exception) -> str:
    """What to look at if a server refuses a handshake without saying why, as frameworks do where no socket is."""
    if not isinstance(error, InvalidStatus):
        return ""
    status = error.response.status_code
    if status == NOT_FOUND or (status == FORBIDDEN and not error.response.body):
        return (
            ". Is the path right? In a Litestar application the WebSocket is at TidelogConfig(path=...), "
            "and guards of the application may refuse it, too"
        )
    return ""


def why(error: Exception) -> str:
    """What is wrong with the way to the server, and what to do."""
    match error:
        case sockets.gaierror():
            return f"no such host ({error.strerror}): is its name right?"
        case TimeoutError():
            return "no answer in time: are host and port right, and does a firewall let us through?"
        case OSError() if isinstance(error, ConnectionRefusedError) or "Connect call failed" in str(error):
            return f"nothing listens there: does the server run, and is the port right? ({error})"
        case _:
            return str(error) or type(error).__name__


def _without_secrets(url: str) -> str:
    """For messages: a user, a password or a token that is in the URL is not shown."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "the server's address"
    if not parts.netloc:
        return url.partition("?")[0].rpartition("@")[2]
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
