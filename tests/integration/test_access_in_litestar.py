"""Who may in somebody's own Litestar application: what its middleware found out counts, on sockets and for steps."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from litestar.connection import ASGIConnection
from litestar.exceptions import NotAuthorizedException
from litestar.middleware import AbstractAuthenticationMiddleware, AuthenticationResult
from litestar.security.jwt import JWTAuth, Token
from litestar.types import Scope
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.harness import Subscriber
from tests.integration.test_access import DENIED, answer, closed
from tests.integration.test_plugin import make_app, migrated, serving, url  # noqa: F401 - a fixture
from tests.tokens import SECRET, token
from tidelog import Stream, TidelogConfig, TidelogPlugin
from tidelog.errors import ExposedError, UnauthorizedError
from tidelog.settings import Settings
from tidelog.web import expiry
from tidelog.web.callers import ApplicationAuth, Callers
from tidelog.web.exposure import Exposure, check_exposure

pytestmark = pytest.mark.filterwarnings("ignore::litestar.exceptions.LitestarDeprecationWarning")

WHO = """
config = {"type": "api", "name": "Who", "method": "GET", "path": "/who", "auth": "AUTH", "emits": []}


async def handler(req, context):
    return {"status": 200, "body": [context.auth.user, context.auth.auth] if context.auth else None}
"""
NOWHERE = "postgresql://nobody@127.0.0.1:9/none"


class HeaderAuthentication(AbstractAuthenticationMiddleware):
    """Believes a header; without one it is nobody, with a wrong one it refuses."""

    async def authenticate_request(self, connection: ASGIConnection[Any, Any, Any, Any]) -> AuthenticationResult:
        name = connection.headers.get("x-user") or connection.query_params.get("user")
        if name == "wrong":
            raise NotAuthorizedException
        return AuthenticationResult(user={"id": name} if name else None, auth="by header" if name else None)


def is_owner(subscription: Any, auth: Any) -> bool:
    return auth is not None and auth.user["id"] == subscription["groupId"]


async def test_an_application_takes_a_right_away_in_all_its_processes(url: str) -> None:
    """By its plugin: two of them stand for two processes."""
    members = {"ada"}

    def is_member(subscription: Any, auth: Any) -> bool:
        return auth is not None and auth.user["id"] in members

    config = TidelogConfig(database_url=url, streams=[Stream("job", can_access=is_member)], path="/live")
    here, there = await migrated(TidelogPlugin(config)), TidelogPlugin(config)
    app, other_app = (make_app([], plugins=[one], middleware=[HeaderAuthentication]) for one in (here, there))
    async with serving(app), serving(other_app) as other, Subscriber.connect(other, path="/live?user=ada") as ada:
        await ada.view("job", "ada")
        members.clear()
        await here.tidelog.revoke(stream="job")
        assert (await ada.next())["event"]["event"]["data"] == DENIED


async def test_a_rule_is_asked_with_what_the_middleware_found_out(url: str) -> None:
    """On the socket; whom the middleware refuses gets no handshake."""
    streams = [Stream("job", can_access=is_owner), Stream("free")]
    plugin = await migrated(TidelogPlugin(TidelogConfig(database_url=url, streams=streams, path="/live")))
    async with serving(make_app([], plugins=[plugin], middleware=[HeaderAuthentication])) as server:
        async with Subscriber.connect(server, path="/live?user=ada") as ada:
            assert await answer(ada, "job", "ada") == []
            assert await answer(ada, "job", "eve") == DENIED
            assert await answer(ada, "free", "g") == []
        async with Subscriber.connect(server, path="/live") as nobody:
            assert await answer(nobody, "job", "ada") == DENIED
        with pytest.raises(InvalidStatus):
            async with Subscriber.connect(server, path="/live?user=wrong"):
                pass


@pytest.mark.parametrize(("auth", "status"), [("optional", 200), ("required", 401)])
async def test_steps_have_what_the_middleware_found_out(tmp_path: Path, auth: str, status: int) -> None:
    """And those that need somebody are refused without."""
    (tmp_path / "who_step.py").write_text(WHO.replace("AUTH", auth))
    plugin = TidelogPlugin(TidelogConfig(database_url=NOWHERE, steps_dir=tmp_path))
    app = make_app([], plugins=[plugin], middleware=[HeaderAuthentication])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://theirs") as http:
        assert (await http.get("/who", headers={"x-user": "ada"})).json() == [{"id": "ada"}, "by header"]
        assert (await http.get("/who")).status_code == status
        assert (await http.get("/who", headers={"x-user": "wrong"})).status_code == 401


async def test_litestars_own_tokens_end_a_connection(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its JWT middleware says until when; the rule sees the user that it retrieved."""
    monkeypatch.setattr(expiry, "LOOK_SECONDS", 0.05)

    async def retrieve(token: Token, _: Any) -> Any:
        return {"id": token.sub}

    middleware = JWTAuth[Any, Token](retrieve_user_handler=retrieve, token_secret=SECRET).middleware
    streams = [Stream("job", can_access=is_owner)]
    plugin = await migrated(TidelogPlugin(TidelogConfig(database_url=url, streams=streams)))
    async with serving(make_app([], plugins=[plugin], middleware=[middleware])) as server:
        options = {"additional_headers": {"Authorization": f"Bearer {token(iat=int(time.time()))}"}}
        async with connect(server.ws_url, proxy=None, **options) as socket:  # type: ignore[arg-type]
            subscriber = Subscriber(socket)
            assert await answer(subscriber, "job", "ada") == []
            assert await answer(subscriber, "job", "eve") == DENIED
            monkeypatch.setattr(expiry, "time", SimpleNamespace(time=lambda: time.time() + 7200))
            assert (await closed(socket)).code == 4401


async def test_a_function_in_the_configuration_decides_alone(url: str) -> None:
    """As stream_auth.py does; Litestar's exceptions refuse, too."""

    async def authenticate(request: Any) -> Any:
        if request["token"] != "t":
            raise NotAuthorizedException
        return {"subject": "ada"}

    streams = [Stream("job", can_access=lambda subscription, auth: auth["subject"] == subscription["groupId"])]
    config = TidelogConfig(database_url=url, streams=streams, authenticate=authenticate)
    plugin = await migrated(TidelogPlugin(config))
    async with serving(make_app([], plugins=[plugin], middleware=[HeaderAuthentication])) as server:
        async with Subscriber.connect(server, token="t") as subscriber:
            assert await answer(subscriber, "job", "ada") == []
        with pytest.raises(InvalidStatus):
            async with Subscriber.connect(server, path="/?user=ada"):
                pass


@pytest.mark.parametrize(
    ("user", "auth", "subject"),
    [
        ("ada", None, "ada"),
        (7, None, "7"),
        ({"id": 7}, None, "7"),
        ({"subject": "ada", "id": 7}, None, "ada"),
        (None, {"sub": "ada"}, "ada"),
        (object(), "x", None),
        ({"id": None}, {"sub": None}, None),
    ],
)
def test_the_subject_of_an_applications_user(user: Any, auth: Any, subject: str | None) -> None:
    """What limits and revocations go by."""
    assert ApplicationAuth(user, auth).subject == subject


async def test_without_a_middleware_nobody_is_known() -> None:
    """Whatever the request says."""
    scope: Any = {"type": "http", "headers": [(b"authorization", b"Bearer x")], "query_string": b"", "path": "/"}
    assert not (await Callers().of(scope)).is_known
    with pytest.raises(UnauthorizedError):
        await Callers().renewed(scope, "x")


# Where a server is reached.


def scope_at(server: Any) -> Scope:
    return {"server": server}  # type: ignore[typeddict-item]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "example.com", "app.internal"])  # noqa: S104
def test_a_server_that_others_reach_does_not_begin_without_saying_who_may(host: str) -> None:
    """An authentication, or `open` said aloud; `declared` and `closed` alone would leave the steps open."""
    for said in ({}, {"access": "declared"}, {"access": "closed"}):
        settings = Settings(host=host, **said)  # type: ignore[arg-type]
        with pytest.raises(ExposedError, match=host if host != "::" else "::"):
            check_exposure(settings, has_authentication=False)
        check_exposure(settings, has_authentication=True)
    check_exposure(Settings(host=host, access="open"), has_authentication=False)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.9.9.9", "dev.localhost"])
def test_a_developers_own_server_begins_open(host: str) -> None:
    """But not one that is called by other names: there is a proxy before it."""
    check_exposure(Settings(host=host), has_authentication=False)
    with pytest.raises(ExposedError):
        check_exposure(Settings(host=host, allowed_hosts=("app.example",)), has_authentication=False)
    check_exposure(Settings(host=host, allowed_hosts=("localhost",)), has_authentication=False)


@pytest.mark.parametrize(
    ("server", "mode"),
    [
        (("127.0.0.1", 3000), "open"),
        (("::1", 3000), "open"),
        (("testserver", None), "open"),
        (("192.0.2.7", 3000), "declared"),
        (("::ffff:192.0.2.7", 3000), "declared"),
        (("2001:db8::1", 3000), "declared"),
        (("/run/app.sock", None), "declared"),
        (None, "declared"),
    ],
)
def test_what_is_open_depends_on_the_address_that_was_reached(server: Any, mode: str) -> None:
    """Also where the settings don't say at what address a server listens: an application's, or uvicorn's own."""
    exposure = Exposure(Settings(), has_authentication=False)
    assert exposure.mode_of(scope_at(server)) == mode
    if mode == "open":
        exposure.check(scope_at(server))
    else:
        with pytest.raises(ExposedError):
            exposure.check(scope_at(server))
    assert Exposure(Settings(access="closed"), has_authentication=True).mode_of(scope_at(server)) == "closed"
    Exposure(Settings(), has_authentication=True).check(scope_at(server))
