"""Which hosts and origins are let in, by what the settings say."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from pydantic import ValidationError

from tidelog.errors import HostForbiddenError, OriginForbiddenError
from tidelog.settings import Settings
from tidelog.web.hosts import parse_host
from tidelog.web.page_rules import TOLD_MAX, PageRules

LOOPBACK = ("127.0.0.1", 3000)
NETWORK = ("192.0.2.1", 3000)


def rules(**settings: Any) -> PageRules:
    return PageRules(Settings(**settings))


def names(rules: PageRules, host: str | None, server: Any = LOOPBACK) -> bool:
    """Whether a request may name this host."""
    try:
        rules.check_host(host, server)
    except HostForbiddenError:
        return False
    return True


def lets(rules: PageRules, origin: str | None, host: str = "localhost:3000", site: str | None = None) -> bool:
    """Whether a page of this origin may change something."""
    try:
        rules.check_origin(origin, site, parse_host(host))
    except OriginForbiddenError:
        return False
    return True


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:3000",
        "LocalHost:3000",
        "localhost.:3000",
        "127.0.0.1:3000",
        "127.0.0.2",
        "127.0.0.1.:80",
        "[::1]:3000",
        "[0:0:0:0:0:0:0:1]",
        "app.localhost:3000",
        None,
    ],
)
def test_a_loopback_address_answers_to_loopback_names(host: str | None) -> None:
    """However they are written; and to programs that name none."""
    assert names(rules(), host)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:3000",
        "localhost.evil.example",
        "evil-localhost",
        "127.0.0.1.evil.example",
        "",
        "localhost, evil.example",
        "localhost:3000:1",
        "[::1",
        "[localhost]",
        "user@localhost",
        "localhost:x",
    ],
)
def test_a_loopback_address_answers_to_no_other_name(host: str) -> None:
    """A page of that name would read and write as the server's own: DNS rebinding."""
    assert not names(rules(), host)
    assert not names(rules(), host, ("::1", 3000))


def test_elsewhere_a_server_answers_to_any_name_until_it_is_told_its_own() -> None:
    """A setting names them, as a comma list or JSON, with or without subdomains."""
    assert names(rules(), "app.example.com", NETWORK)
    assert names(rules(), "app.example.com", ("/run/tidelog.sock", None))
    assert names(rules(host="192.0.2.1"), "app.example.com")  # behind a proxy on its own machine
    for own in ("example.com, *.Example.com", '["example.com", "*.example.com"]'):
        told = rules(allowed_hosts=own)
        for server in (LOOPBACK, NETWORK):
            assert names(told, "example.com", server) and names(told, "app.example.com:8443", server)
            assert not names(told, "example.org", server) and not names(told, "notexample.com", server)
    assert names(rules(allowed_hosts="*"), "whatever.example")


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://192.0.2.1:3000", "192.0.2.1:3000"),
        ("https://app.example", "app.example"),  # TLS ends at a proxy
        ("https://app.example", "app.example:443"),
        ("http://app.example", "APP.example.:80"),
        ("https://app.example:8443", "app.example:8443"),
        ("http://[2001:db8::1]:3000", "[2001:DB8:0:0:0:0:0:1]:3000"),
    ],
)
def test_a_page_may_use_the_server_that_it_came_from(origin: str, host: str) -> None:
    assert lets(rules(), origin, host)
    assert lets(rules(cors_origins=""), origin, host)


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "https://app.example:444",
        "https://app.example.evil",
        "http://xapp.example",
        "null",
        "",
        "https://app.example, https://app.example",
        "app.example",
        "file://",
        "https://app.example@evil",
        "tauri://app",
    ],
)
def test_another_page_may_not(origin: str) -> None:
    """Neither one of another port, nor a file's or a sandboxed frame's, nor what is no origin."""
    assert not lets(rules(), origin, "app.example")
    assert not lets(rules(), origin, "localhost:3000")


@pytest.mark.parametrize(
    "origin", ["http://localhost:5173", "http://127.0.0.1:8080", "https://a.localhost", "http://[::1]"]
)
def test_pages_on_a_developers_machine_may_use_the_server_there(origin: str) -> None:
    """Vite's, say; not a server elsewhere, and none once the setting says who may."""
    assert lets(rules(), origin, "localhost:3000") and lets(rules(), origin, "127.0.0.1:3000")
    assert not lets(rules(), origin, "app.example")
    assert not lets(rules(cors_origins=""), origin)
    assert not lets(rules(cors_origins="https://app.example"), origin)


def test_a_setting_says_which_other_pages_may() -> None:
    """As a comma list or JSON: whole, with any subdomain, with any port, or all."""
    told = rules(cors_origins="https://App.example/, https://*.b.example:*,null")
    assert lets(told, "https://app.example") and lets(told, "https://x.b.example:1234") and lets(told, "null")
    assert not lets(told, "http://app.example") and not lets(told, "https://b.example") and not lets(told, "https://c")
    assert lets(rules(cors_origins='["http://localhost:*"]'), "http://localhost:5173", "app.example")
    for origin in ("https://anywhere.example", "null", None):
        assert lets(rules(cors_origins="*"), origin, site="cross-site")


@pytest.mark.parametrize("setting", ["app.example", "https://app.example/path", "https://", "[1", '["https://a", "b"]'])
def test_what_is_no_origin_is_refused_when_the_settings_are_read(setting: str) -> None:
    with pytest.raises(ValidationError, match=r"is not an origin|is none"):
        Settings(cors_origins=setting)
    with pytest.raises(ValidationError):
        Settings(allowed_hosts="https://app.example")


def test_what_a_browser_says_of_the_site_counts_too() -> None:
    """It knows the same origin behind a proxy that renames us, and another site where it sends no Origin."""
    assert lets(rules(), "https://app.example", "127.0.0.1:3000", site="same-origin")
    assert lets(rules(), None, site="none") and lets(rules(), None)
    assert not lets(rules(), None, site="cross-site") and not lets(rules(), None, site="same-site")
    assert not lets(rules(), "https://app.example", "127.0.0.1:3000", site="cross-site")


def acts(rules: PageRules, origin: str | None, host: str = "localhost:3000", site: str | None = None) -> bool:
    """Whether a page of this origin may act as the user whose cookies its browser sent."""
    said = {"host": host, "origin": origin, "sec-fetch-site": site}
    try:
        rules.check_ambient([(name.encode(), value.encode()) for name, value in said.items() if value is not None])
    except OriginForbiddenError:
        return False
    return True


def test_a_page_acts_with_a_users_cookies_only_where_it_is_ours_or_named() -> None:
    """By `*`, or on a developer's machine, it may use the server; but not as its user. Programs may."""
    vite, evil = "http://localhost:5173", "https://evil.example"
    for told in (rules(), rules(cors_origins="*"), rules(cors_origins="https://*,null,*")):
        assert acts(told, "http://localhost:3000") and acts(told, evil, site="same-origin") and acts(told, None)
        for origin in (vite, evil, "null"):
            assert not acts(told, origin) and not acts(told, origin, site="cross-site")
        assert not acts(told, None, site="cross-site")
    named = rules(cors_origins="https://app.example,http://localhost:*,*")
    assert acts(named, "https://app.example", "api.example") and acts(named, vite)
    assert not acts(named, evil)


def test_what_would_allow_a_page_leaves_those_that_are_allowed(caplog: pytest.LogCaptureFixture) -> None:
    """The setting can be taken as it is said."""
    assert not lets(rules(cors_origins="https://a.example"), "https://b.example")
    assert "TIDELOG_CORS_ORIGINS=https://a.example,https://b.example would allow it" in caplog.text


def test_the_log_says_once_what_would_allow_it(caplog: pytest.LogCaptureFixture) -> None:
    """The setting with the value; not again for each try, nor for any number of names."""
    told = rules()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert not names(told, "app.test:3000")
            assert not lets(told, "https://app.example")
        assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
            "TIDELOG_ALLOWED_HOSTS=app.test would allow it",
            "TIDELOG_CORS_ORIGINS=https://app.example would allow it",
        ]
        for number in range(2 * TOLD_MAX):
            assert not lets(told, f"https://{number}.example")
    assert len(caplog.records) == TOLD_MAX
