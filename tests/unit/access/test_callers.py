"""What an authentication is told of a request, and for whom a user's cookie speaks."""

from __future__ import annotations

from typing import Any, cast

import pytest

from tidelog.access.authentication import TOKEN, Authentication
from tidelog.access.caller import ANYBODY, Caller
from tidelog.errors import OriginForbiddenError
from tidelog.settings import Settings
from tidelog.web.addresses import Addresses
from tidelog.web.callers import Callers
from tidelog.web.page_rules import PageRules


class ByCookieOrToken:
    """Knows Ada by either, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    async def caller_of(self, request: dict[str, Any]) -> Caller:
        self.asked.append(request)
        is_ada = request[TOKEN] == "adas" or "session=adas" in request["headers"].get("cookie", "")
        return Caller({"subject": "ada"}) if is_ada else ANYBODY


def scope_of(**headers: str) -> Any:
    said = {"host": "127.0.0.1:3000", **headers}
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in said.items()]
    return {"type": "websocket", "path": "/", "query_string": b"", "headers": raw, "client": ("192.0.2.1", 5000)}


def callers(authentication: ByCookieOrToken, **settings: Any) -> Callers:
    said = Settings(**settings)
    return Callers(cast("Authentication", authentication), Addresses(said), PageRules(said).check_ambient)


STRANGE = {"origin": "https://evil.example", "sec_fetch_site": "cross-site"}


async def test_a_cookie_speaks_for_its_user_on_our_pages_only() -> None:
    """A browser sends it with what any page asks for."""
    ours = callers(ByCookieOrToken(), cors_origins="*")
    for page in ({}, {"origin": "http://127.0.0.1:3000", "sec_fetch_site": "same-origin"}):
        assert (await ours.of(scope_of(cookie="session=adas", **page))).subject == "ada"
    with pytest.raises(OriginForbiddenError):
        await ours.of(scope_of(cookie="session=adas", **STRANGE))


async def test_who_is_nobody_or_has_a_token_may_come_from_a_page_that_is_allowed() -> None:
    """A token is given by the page itself."""
    ours = callers(ByCookieOrToken(), cors_origins="*")
    assert await ours.of(scope_of(**STRANGE)) is ANYBODY
    assert (await ours.of(scope_of(authorization="Bearer adas", **STRANGE))).subject == "ada"


@pytest.mark.parametrize(
    ("proxies", "address"), [(None, "192.0.2.1"), ("192.0.2.0/24", "203.0.113.9"), ("198.51.100.1", "192.0.2.1")]
)
async def test_the_address_is_the_clients_where_a_trusted_proxy_says_it(proxies: str | None, address: str) -> None:
    authentication = ByCookieOrToken()
    await callers(authentication, trusted_proxies=proxies).of(scope_of(x_forwarded_for="203.0.113.9"))
    assert [request["address"] for request in authentication.asked] == [address]
