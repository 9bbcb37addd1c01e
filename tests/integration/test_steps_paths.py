"""Which step a path is for, and what its parameters are: as the client sent it, on a real server, byte by byte."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from tests.conftest import server_starter
from tests.harness import ROOT, Databases, Server, server_environment
from tidelog.model.reserved import SERVER_PATHS
from tidelog.runtime.discovery import Discovered, discover

WAIT_SECONDS = 60
ORIGIN = "http://page.example"

STEP = """
config = {{"type": "api", "name": {name!r}, "method": {method!r}, "path": {path!r}}}
HEADERS = {{"x-step": {name!r}}}
def handler(req):
    return {{"status": 200, "body": {{"step": {name!r}, "params": req["pathParams"]}}, "headers": HEADERS}}
"""

STEPS = {
    "repo": ("GET", "/repos/:repo"),
    "repo-part": ("GET", "/repos/:org/:app"),
    "user": ("GET", "/users/:id"),
    "me": ("GET", "/users/me"),
    "my-post": ("GET", "/users/me/:post"),
    "posts-of": ("GET", "/users/:id/posts"),
    "put-me": ("PUT", "/users/me"),
    "delete-user": ("DELETE", "/users/:id"),
    "cafe": ("GET", "/café/menu"),
    "own-get": ("GET", "/own"),
    "own-head": ("HEAD", "/own"),
    "files": ("GET", "/files/*"),
    "docs": ("GET", "/docs/:version?/:page?"),
    "tree": ("GET", "/tree/:path*"),
    "tree-root": ("GET", "/tree/root/index"),
    "any-page": ("GET", "/:page"),
    "any-two": ("GET", "/:a/:b"),
    "post-two": ("POST", "/:a/:b"),
    "taken": ("GET", "/health/live"),
}

Ask = Callable[..., Awaitable[tuple[int, dict[str, str], bytes]]]


@pytest.fixture(scope="module")
async def server(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    steps_dir = tmp_path_factory.mktemp("project") / "steps"
    steps_dir.mkdir()
    for name, (method, path) in STEPS.items():
        (steps_dir / f"{name}_step.py").write_text(STEP.format(name=name, method=method, path=path))
    url = await databases.create()
    try:
        async with server_starter(url) as start:
            yield await start(steps_dir, TIDELOG_CORS_ORIGINS=json.dumps([ORIGIN]))
    finally:
        await databases.drop(url)


@pytest.fixture
def ask(server: Server) -> Ask:
    """Ask for a path just as it is given; returns status, headers, and body."""

    async def ask(target: str | bytes, method: str = "GET", *headers: str) -> tuple[int, dict[str, str], bytes]:
        target = target.encode() if isinstance(target, str) else target
        lines = "".join(
            f"{line}\r\n" for line in ("host: localhost", "connection: close", "content-length: 0", *headers)
        )
        async with asyncio.timeout(WAIT_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"%s %s HTTP/1.1\r\n%s\r\n" % (method.encode(), target, lines.encode()))
            answer = await reader.read()
            writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        first, *rest = head.decode("latin-1").split("\r\n")
        pairs = (line.partition(": ") for line in rest)
        return int(first.split()[1]), {name.lower(): value for name, _, value in pairs}, body

    return ask


@pytest.mark.parametrize(
    ("target", "step", "params"),
    [
        ("/repos/app", "repo", {"repo": "app"}),
        ("/repos/org%2Fapp", "repo", {"repo": "org/app"}),
        ("/repos/org%2fapp/", "repo", {"repo": "org/app"}),
        ("/repos/org/app", "repo-part", {"org": "org", "app": "app"}),
        ("/repos/org%2Fa/app%2Fb", "repo-part", {"org": "org/a", "app": "app/b"}),
        ("/repos/%2F", "repo", {"repo": "/"}),
        ("/repos/a%252Fb", "repo", {"repo": "a%2Fb"}),
        ("/repos/%3Arepo", "repo", {"repo": ":repo"}),
        ("/repos/:", "repo", {"repo": ":"}),
        ("/repos/a+b;c=d,e", "repo", {"repo": "a+b;c=d,e"}),
        ("/repos/%20a%20", "repo", {"repo": " a "}),
        ("/repos/..", "repo", {"repo": ".."}),
        ("/repos/%2e%2e", "repo", {"repo": ".."}),
        ("/repos/%3Fq%23f?q=1", "repo", {"repo": "?q#f"}),
        ("/repos/100%", "repo", {"repo": "100%"}),
        ("/r%65pos/app", "repo", {"repo": "app"}),
        ("/caf%C3%A9/menu", "cafe", {}),
        ("/users/me", "me", {}),
        ("/users/%6De/", "me", {}),
        ("/users/you", "user", {"id": "you"}),
        ("/users/me/posts", "my-post", {"post": "posts"}),
        ("/users/you/posts", "posts-of", {"id": "you"}),
        ("/users%2Fme", "any-page", {"page": "users/me"}),
        ("/health", "any-page", {"page": "health"}),
        ("/health/live%2F", "any-two", {"a": "health", "b": "live/"}),
        ("/health%2Flive", "any-page", {"page": "health/live"}),
        ("/files/a/b%2Fc//d", "files", {"0": "a/b/c//d"}),
        ("/files/a", "files", {"0": "a"}),
        ("/files/", "any-page", {"page": "files"}),
        ("/docs", "docs", {}),
        ("/docs/1/", "docs", {"version": "1"}),
        ("/docs/1/intro", "docs", {"version": "1", "page": "intro"}),
        ("/tree", "tree", {}),
        ("/tree/root", "tree", {"path": "root"}),
        ("/tree/root/index", "tree-root", {}),
        ("/tree/root/other/one", "tree", {"path": "root/other/one"}),
    ],
)
async def test_a_path_is_split_first_and_decoded_then(ask: Ask, target: str, step: str, params: dict[str, str]) -> None:
    """Each part is one value, as the client meant it; fixed parts go before parameters."""
    status, _, body = await ask(target)
    assert (status, json.loads(body)) == (200, {"step": step, "params": params})


async def test_a_step_of_the_method_goes_before_one_of_another(ask: Ask) -> None:
    """PUT /users/me doesn't hide DELETE /users/:id from the user who is called me."""
    for method, step in {"PUT": "put-me", "DELETE": "delete-user", "POST": "post-two"}.items():
        status, _, body = await ask("/users/me", method)
        assert (status, json.loads(body)["step"]) == (200, step)


@pytest.mark.parametrize("target", ["/repos//", "/repos//app", "//repos/app", "/repos/app//", "//", "/users/me/a/b"])
async def test_an_empty_part_is_no_value(ask: Ask, target: str) -> None:
    """A missing id is 404, and not the path that is left without it."""
    status, _, body = await ask(target)
    assert (status, json.loads(body)["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    "target", ["/repos/%FF", "/repos/%C3", "/repos/%ED%A0%80", "/repos/a%00b", "/%00", "/a/b/c/%ff"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
async def test_bytes_that_are_no_text_are_refused(ask: Ask, target: str, method: str) -> None:
    """They would all be the same character, or no key; also for a page of another origin to read."""
    status, headers, body = await ask(target, method, f"origin: {ORIGIN}")
    assert status == 400 and (method == "HEAD" or json.loads(body)["error"]["code"] == "path_invalid")
    assert headers["access-control-allow-origin"] == ORIGIN


async def test_bytes_that_are_no_ascii_are_refused(ask: Ask) -> None:
    """By the server, before any of it is ours."""
    status, _, _ = await ask(b"/repos/\xff")
    assert status == 400


@pytest.mark.parametrize("target", ["/repos/app", "/users/me", "/health/live", "/health/ready", "/schema/openapi.json"])
async def test_head_is_get_without_a_body(ask: Ask, target: str) -> None:
    """The same status and headers, for steps and for what is the server's own."""
    status, headers, body = await ask(target)
    head_status, head_headers, head_body = await ask(target, "HEAD")
    assert body and not head_body
    for varying in ("date", "x-trace-id"):
        headers.pop(varying, None)
        head_headers.pop(varying, None)
    assert (head_status, head_headers) == (status, headers)


async def test_a_declared_head_step_wins(ask: Ask) -> None:
    """Beside a GET step at the same path."""
    for method, step in {"GET": "own-get", "HEAD": "own-head"}.items():
        status, headers, _ = await ask("/own", method)
        assert (status, headers["x-step"]) == (200, step)


@pytest.mark.parametrize(
    ("target", "allowed"),
    [
        ("/users/me", {"GET", "HEAD", "PUT", "OPTIONS"}),
        ("/repos/a%2Fb/c", {"GET", "HEAD", "OPTIONS"}),
        ("/own", {"GET", "HEAD", "OPTIONS"}),
        ("/health/live", {"GET", "HEAD", "OPTIONS"}),
    ],
)
async def test_what_is_not_allowed_names_what_is(ask: Ask, target: str, allowed: set[str]) -> None:
    """405 with Allow."""
    status, headers, _ = await ask(target, "PATCH")
    assert (status, set(headers["allow"].split(", "))) == (405, allowed)


async def test_options_and_preflights_are_answered(ask: Ask) -> None:
    """With what is allowed, and to whom."""
    status, headers, _ = await ask("/repos/a%2Fb", "OPTIONS")
    assert status == 204 and {"GET", "HEAD", "OPTIONS"} == set(headers["allow"].split(", "))
    status, headers, _ = await ask(
        "/repos/a%2Fb", "OPTIONS", f"origin: {ORIGIN}", "access-control-request-method: DELETE"
    )
    assert status == 204 and headers["access-control-allow-origin"] == ORIGIN
    _, headers, _ = await ask("/repos/a%2Fb", "GET", f"origin: {ORIGIN}")
    assert headers["access-control-allow-origin"] == ORIGIN


def test_the_servers_own_routes_are_known() -> None:
    """Whatever Litestar serves that is no step is in SERVER_PATHS, so that no step hides it."""
    program = "import json; from app.main import app; print(json.dumps([route.path for route in app.routes]))"
    environment = server_environment("postgresql://nowhere", None)
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, check=True)
    litestars_404 = "/schema/{path:str}"
    served = {path for path in json.loads(done.stdout) if "\0" not in path} - {litestars_404}
    assert {path.replace("{stream:str}", ":stream") for path in served} == set(SERVER_PATHS)


@pytest.mark.parametrize("path", [*SERVER_PATHS, "/health/live/"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_step_at_a_route_of_the_servers_is_left_out_by_name(tmp_path: Path, path: str, method: str) -> None:
    """The file and the route are named, and all else is served."""
    steps_dir = tmp_path / "steps"
    steps_dir.mkdir()
    taken = steps_dir / "a_step.py"
    taken.write_text(STEP.format(name="taken", method=method, path=path))
    (steps_dir / "b_step.py").write_text(STEP.format(name="other", method=method, path="/health"))
    discovered: Discovered = discover(steps_dir)
    (broken,) = discovered.broken
    assert broken.path == taken and f"path {path!r} is a route of the server's own" in broken.cause
    assert [step.name for step in discovered.steps] == ["other"]


async def test_a_server_starts_without_the_step_at_its_own_route(server: Server, ask: Ask) -> None:
    """The log names the file; health answers as ever."""
    assert "taken_step.py" in server.log() and "'/health/live' is a route of the server's own" in server.log()
    status, _, body = await ask("/health/live")
    assert (status, json.loads(body)) == (200, {"status": "live"})
