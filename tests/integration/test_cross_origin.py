"""Web pages of others can neither read nor write a server, over HTTP or by WebSocket; those that are allowed to can."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.conftest import StartServer, server_starter
from tests.harness import Databases, Server, StepsFolder

STEP = """
config = {"type": "api", "name": "Write", "method": "POST", "path": "/write", "emits": []}

written = []

async def handler(req, context):
    written.append(req["body"])
    return {"status": 200, "body": written, "headers": {"vary": "Accept"}}
"""
EVIL = "https://evil.example"
VITE = "http://localhost:5173"
FORM = {"content-type": "application/x-www-form-urlencoded"}


@pytest.fixture(scope="module")
async def server(
    databases: Databases, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Server]:
    """As a developer starts it."""
    steps = StepsFolder(tmp_path_factory.mktemp("steps"))
    steps.write("write_step.py", STEP)
    url = await databases.create(template=template_database)
    async with server_starter(url) as start:
        yield await start(steps.path)
    await databases.drop(url)


async def open_socket(server: Server, **headers: str) -> int:
    """The status of a handshake with these headers."""
    try:
        async with connect(server.ws_url, additional_headers=headers, proxy=None):
            return 101
    except InvalidStatus as error:
        return error.response.status_code


async def post(server: Server, headers: dict[str, str], body: str = "a=1") -> httpx.Response:
    async with server.http() as http:
        return await http.post("/write", content=body, headers=headers)


@pytest.mark.parametrize("origin", [EVIL, "null", "http://localhost.evil.example", "HTTP://EVIL.EXAMPLE:80"])
async def test_a_strange_page_can_neither_open_a_socket_nor_post(server: Server, origin: str) -> None:
    """Neither a form nor a body without a type, for which browsers ask nobody; the handler doesn't run."""
    before = (await post(server, {})).json()
    assert await open_socket(server, Origin=origin) == 403
    for kind in (FORM, {"content-type": "text/plain"}, {}):
        answer = await post(server, {"origin": origin, **kind})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin_forbidden")
        assert "access-control-allow-origin" not in answer.headers
    assert len((await post(server, {})).json()) == len(before) + 1


@pytest.mark.parametrize("protocols", [None, ["tidelog.v1"], ["Authorization", "a-token"]])
async def test_a_strange_page_opens_no_socket_with_its_visitors_cookies(
    server: Server, protocols: list[str] | None
) -> None:
    """In no dialect, at no path; a browser sends them with it (cross-site WebSocket hijacking)."""
    with_cookies = {"Cookie": "session=visitors", "Sec-Fetch-Site": "cross-site"}
    for path in ("/", "/write", "/health/live", "/no/such"):
        for origin in (EVIL, "null"):
            with pytest.raises(InvalidStatus) as refused:
                async with connect(
                    server.ws_url + path,
                    additional_headers=with_cookies | {"Origin": origin},
                    subprotocols=protocols,
                    proxy=None,
                ):
                    pass
            assert refused.value.response.status_code == 403


@pytest.mark.parametrize("host", ["evil.example:3000", "127.0.0.1.evil.example", "localhost.evil.example"])
async def test_a_page_whose_name_was_led_to_this_machine_is_refused(server: Server, host: str) -> None:
    """Its browser takes the server for the page's own: it may read, too, and sends no Origin with that."""
    async with server.http() as http:
        for path in ("/schema/openapi.json", "/health/ready", "/write"):
            answer = await http.get(path, headers={"host": host})
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "host_forbidden")
        answer = await http.post("/write", headers={"host": host, "origin": f"http://{host}"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "host_forbidden")
    async with server.http() as http:
        upgrade = {"host": host, "origin": f"http://{host}", "connection": "upgrade", "upgrade": "websocket"}
        key = {"sec-websocket-version": "13", "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ=="}
        assert (await http.get("/", headers=upgrade | key)).status_code == 403


async def test_its_own_pages_and_programs_use_a_server_as_ever(server: Server) -> None:
    """curl sends no Origin, and a page at any loopback name is the server's own."""
    assert (await post(server, {})).status_code == 200
    assert await open_socket(server) == 101
    for name in ("127.0.0.1", "localhost", "LOCALHOST", "app.localhost", "localhost.", "[::1]"):
        own = {"host": f"{name}:{server.port}", "origin": f"http://{name}:{server.port}"}
        assert (await post(server, own)).status_code == 200
    assert await open_socket(server, Origin=server.url) == 101


async def test_a_page_of_vites_uses_a_developers_server(server: Server) -> None:
    """It may post JSON, for which its browser asks first, read the answer, and open a socket."""
    async with server.http() as http:
        asked = {"access-control-request-method": "POST", "access-control-request-headers": "content-type, x-trace-id"}
        leave = await http.options("/write", headers={"origin": VITE, **asked})
        assert leave.status_code == 204
        assert leave.headers["access-control-allow-origin"] == VITE
        assert "POST" in leave.headers["access-control-allow-methods"]
        assert leave.headers["access-control-allow-headers"] == "content-type, x-trace-id"
        refused = await http.options("/write", headers={"origin": EVIL, **asked})
        assert (refused.status_code, "access-control-allow-origin" in refused.headers) == (403, False)
        answer = await http.post("/write", json={}, headers={"origin": VITE})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, VITE)
        assert answer.headers.get_list("vary") == ["Accept", "Origin"]
        missed = await http.get("/nowhere", headers={"origin": VITE})
        assert (missed.status_code, missed.headers["access-control-allow-origin"]) == (404, VITE)
        unread = await http.get("/nowhere", headers={"origin": EVIL})
        assert (unread.status_code, "access-control-allow-origin" in unread.headers) == (404, False)
    assert await open_socket(server, Origin=VITE) == 101


async def test_settings_open_a_server_to_other_pages_and_names(database_url: str, start_server: StartServer) -> None:
    """A comma list of origins, and the names that it is called by."""
    told = {"TIDELOG_CORS_ORIGINS": f"{EVIL},http://localhost:*", "TIDELOG_ALLOWED_HOSTS": "app.example, 127.0.0.1"}
    told |= {"TIDELOG_ACCESS": "open"}
    server = await start_server(**told)
    assert await open_socket(server, Origin=EVIL) == 101
    assert await open_socket(server, Origin=VITE) == 101
    assert await open_socket(server, Origin="https://other.example") == 403
    async with server.http() as http:
        answer = await http.get("/schema/openapi.json", headers={"host": "app.example", "origin": EVIL})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, EVIL)
        assert (await http.get("/health/live", headers={"host": "localhost"})).status_code == 403
    assert f"TIDELOG_CORS_ORIGINS={EVIL},http://localhost:*,https://other.example would allow it" in server.log()
    assert "Traceback" not in server.log()
    assert "returned without" not in server.log()  # uvicorn, of a handshake that nobody answered


async def test_the_server_has_no_page_that_runs_the_scripts_of_others(server: Server) -> None:
    """They would be of the server's own origin. Its document is JSON or YAML, wherever it is asked for."""
    async with server.http() as http:
        for path in ("/schema", "/schema/openapi.json"):
            assert (await http.get(path, headers={"accept": "text/html"})).json()["openapi"] == "3.1.0"
        assert (await http.get("/schema/openapi.yaml")).headers["content-type"].startswith("application/vnd.oai")
        assert (await http.get("/schema/swagger")).status_code == 404
