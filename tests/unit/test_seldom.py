"""What lasts is told once in a while, and what is new at once."""

from __future__ import annotations

import pytest

from tidelog.logs import seldom as seldom_module
from tidelog.logs.seldom import Seldom


def test_each_is_news_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1.0  # a machine that was just started
    monkeypatch.setattr(seldom_module, "monotonic", lambda: now)
    seldom = Seldom(60.0)
    assert [seldom.is_news("a"), seldom.is_news("a"), seldom.is_news("b")] == [True, False, True]
    now += 59.0
    assert not seldom.is_news("a")
    now += 1.0
    assert [seldom.is_news("a"), seldom.is_news("a")] == [True, False]


def test_of_very_many_the_oldest_is_news_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever chooses the keys may not fill the memory."""
    monkeypatch.setattr(seldom_module, "KEYS_MAX", 2)
    seldom = Seldom()
    assert all(seldom.is_news(key) for key in "abc")
    assert [seldom.is_news("c"), seldom.is_news("a")] == [False, True]
