"""What we rely on of other people's classes beyond what they document: names, which a new version may not have.

Such a version fails here, by the name. What it does otherwise under the same names, the other tests tell.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
from types import ModuleType
from typing import Any

from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_connection
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

from tests.faults.wire import handshake
from tests.unit.test_connection_ends import Transport
from tidelog.web.http_protocol import BoundedFlow, RequestProtocol
from tidelog.web.intake import SlicedIntake
from tidelog.web.protocol import SocketProtocol

# What uvicorn calls, and ours do without calling it in turn: under another name there they would never be called.
REPLACED_OF_FLOW = {"resume_reading"}
REPLACED_OF_SOCKETS = {"handle_cont", "receive"}


async def answer(scope: Any, receive: Any, send: Any) -> None:
    kind = "http" if scope["type"] == "http" else "websocket.http"
    await send({"type": f"{kind}.response.start", "status": 204, "headers": []})
    await send({"type": f"{kind}.response.body", "body": b""})


def names(source: ModuleType | type, *owners: str) -> set[str]:
    """The attributes that are used there of what is called by one of `owners`."""
    nodes = ast.walk(ast.parse(inspect.getsource(source)))
    return {node.attr for node in nodes if isinstance(node, ast.Attribute) and ast.unparse(node.value) in owners}


def names_of_base(ours: type) -> set[str]:
    """The attributes that `ours` has from uvicorn's class."""
    own = {name for one in (ours, SlicedIntake) for name in (*vars(one), *inspect.get_annotations(one))}
    return names(ours, "super()") | (names(ours, "self") - own)


def missing(owner: object, wanted: set[str]) -> list[str]:
    return sorted(name for name in wanted if not hasattr(owner, name))


async def test_the_names_of_uvicorns_requests_that_we_rely_on_are_there() -> None:
    theirs = HttpToolsProtocol(Config(answer, log_config=None), ServerState(), {})
    theirs.connection_made(Transport())
    theirs.data_received(b"GET / HTTP/1.1\r\n\r\n")
    assert missing(theirs, names_of_base(RequestProtocol)) == []
    assert missing(theirs.cycle, names(RequestProtocol, "cycle", "self.cycle")) == []
    of_flow = names(RequestProtocol, "self.flow") | names_of_base(BoundedFlow) - {"_pipeline", "_go_on"}
    assert missing(theirs.flow, REPLACED_OF_FLOW | of_flow) == []
    await asyncio.gather(*theirs.tasks)
    theirs.connection_lost(None)


async def test_the_names_of_uvicorns_sockets_that_we_rely_on_are_there() -> None:
    theirs = WebSocketsSansIOProtocol(Config(answer, log_config=None), ServerState(), {})
    theirs.connection_made(Transport())
    theirs.data_received(handshake())
    assert missing(theirs, REPLACED_OF_SOCKETS | names_of_base(SocketProtocol)) == []
    assert missing(theirs.conn, names(SocketProtocol, "conn", "self.conn")) == []
    await asyncio.gather(*theirs.tasks)
    theirs.connection_lost(None)


async def test_the_other_private_names_that_we_rely_on_are_there() -> None:
    assert missing(AsyncAdapt_asyncpg_connection, {"_execute_mutex"}) == []
    task = asyncio.create_task(asyncio.sleep(0))
    assert missing(task, {"_log_traceback"}) == []
    await task
