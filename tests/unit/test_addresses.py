"""From which address a client comes: nobody can say another one than it has, behind proxies or not."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from tidelog.settings import Settings
from tidelog.web.addresses import Addresses, counted_as

CLIENT = "198.51.100.7"
PROXY = "10.0.0.1"
INNER = "10.0.0.2"


def came_from(
    *headers: tuple[str, str], peer: Any = PROXY, proxies: str | None = "10.0.0.0/8", header: str = "x-forwarded-for"
) -> str | None:
    """What is taken for the client's address."""
    scope: Any = {
        "client": peer and (peer, 4711),
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers],
    }
    return Addresses(Settings(trusted_proxies=proxies, proxy_header=header)).of(scope)


def forwarded(*values: str, **options: Any) -> str | None:
    return came_from(*(("Forwarded", value) for value in values), header="forwarded", **options)


def x(*values: str, **options: Any) -> str | None:
    return came_from(*(("X-Forwarded-For", value) for value in values), **options)


def test_without_trusted_proxies_no_header_counts() -> None:
    """The connection's own address does, whatever the client says."""
    assert x(CLIENT, proxies=None) == PROXY
    assert x(CLIENT, proxies="192.0.2.0/24") == PROXY
    assert forwarded(f"for={CLIENT}", proxies=None) == PROXY


def test_a_trusted_proxy_says_who_called_it() -> None:
    """Also through several."""
    assert x(CLIENT) == CLIENT
    assert x(f"{CLIENT}, {INNER}") == CLIENT
    assert x(CLIENT, INNER) == CLIENT
    assert forwarded(f"for={CLIENT};proto=https;by=10.0.0.1") == CLIENT
    assert forwarded(f"For={CLIENT}, for={INNER};host=example.com") == CLIENT
    assert forwarded(f"for={CLIENT}", f"for={INNER}") == CLIENT


@pytest.mark.parametrize(
    "made_up",
    [
        "127.0.0.1",
        "10.0.0.9",
        "10.0.0.9, 10.0.0.8",
        "unknown",
        "",
        ",,,",
        '"',
        '"10.0.0.9',
        "for=10.0.0.9",
        "10.0.0.9;for=10.0.0.8",
        "[::1]",
        "\xff\xfe",
        ", ".join(["203.0.113.9"] * 2000),
    ],
)
def test_what_a_client_puts_before_it_changes_nothing(made_up: str) -> None:
    """In the same header or in one of its own; in either, with quotes that are not closed."""
    assert x(f"{made_up}, {CLIENT}") == CLIENT
    assert x(made_up, CLIENT) == CLIENT
    assert x(f"{made_up}, {CLIENT}, {INNER}") == CLIENT
    for said in (made_up, f"for={made_up}", f'for="{made_up}', f'for="{made_up}"'):
        assert forwarded(f"{said}, for={CLIENT}") == CLIENT
        assert forwarded(said, f"for={CLIENT};proto=http") == CLIENT
        assert forwarded(f'{said}, for="[2001:db8::7]:99";proto=http') == "2001:db8::7"


def test_the_header_that_the_proxies_dont_write_is_not_read() -> None:
    """They hand it on as the client sent it."""
    assert came_from(("Forwarded", "for=203.0.113.9"), ("X-Forwarded-For", CLIENT)) == CLIENT
    assert came_from(("Forwarded", "for=203.0.113.9")) == PROXY
    both = ("X-Forwarded-For", "203.0.113.9"), ("Forwarded", f"for={CLIENT}")
    assert came_from(*both, header="forwarded") == CLIENT
    assert came_from(("X-Real-IP", "203.0.113.9"), ("Client-IP", "203.0.113.9"), ("X-Forwarded-For", CLIENT)) == CLIENT


@pytest.mark.parametrize(
    "said", ["unknown", "_hidden", "", "1.2.3", "1.2.3.4.5", "fe80::1%eth0", "999.1.1.1", "localhost"]
)
def test_what_is_no_address_is_the_last_one_that_is(said: str) -> None:
    """So a client that could not be told is counted with its proxy, and not let past."""
    assert x(said) == PROXY
    assert x(f"{said}, {INNER}") == INNER
    assert forwarded(f"for={said}") == PROXY
    assert forwarded("proto=https") == PROXY
    assert forwarded(f"for={CLIENT};for=203.0.113.9") == PROXY


@pytest.mark.parametrize(
    ("said", "address"),
    [
        ("192.0.2.1:4711", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("2001:0DB8:0:0::1", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        (" 192.0.2.1 ", "192.0.2.1"),
    ],
)
def test_an_address_is_read_however_it_is_written(said: str, address: str) -> None:
    """With a port, in brackets, as one of IPv6."""
    assert x(said) == address
    assert forwarded(f'for="{said.strip()}"') == address
    assert x(CLIENT, peer="::ffff:10.0.0.1") == CLIENT


def test_those_who_come_by_a_unix_socket_are_trusted_if_a_setting_says_so() -> None:
    """They have no address of their own."""
    assert x(CLIENT, peer=None, proxies="unix") == CLIENT
    assert x(CLIENT, peer=None) is None
    assert came_from(peer=None, proxies="unix") is None


def test_as_many_proxies_as_there_may_be_are_looked_through() -> None:
    """And no more, if a trusted one sends very many."""
    assert x(", ".join([CLIENT, *[INNER] * 19])) == CLIENT
    assert x(", ".join([CLIENT, *[INNER] * 5000])) == INNER


def test_a_network_of_ipv6_counts_as_one() -> None:
    """A machine there has 2^64 addresses."""
    assert counted_as("2001:db8::1") == counted_as("2001:db8::ffff:1") != counted_as("2001:db8:0:1::1")
    assert counted_as("192.0.2.1") != counted_as("192.0.2.2")


def test_the_setting_takes_a_list_in_either_form_and_refuses_what_is_no_network() -> None:
    """A comma list, or JSON."""
    assert Settings(trusted_proxies="10.0.0.0/8, 192.0.2.1").trusted_proxies == ("10.0.0.0/8", "192.0.2.1")
    assert Settings(trusted_proxies='["unix", "2001:db8::/32"]').trusted_proxies == ("unix", "2001:db8::/32")
    for wrong in ("nginx", "10.0.0.0/33", "*", "10.0.0.0-10.0.0.9"):
        with pytest.raises(ValidationError, match="is not a network"):
            Settings(trusted_proxies=wrong)
