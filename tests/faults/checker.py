"""All that a recorded history must hold. Pure: no process, no socket, no clock."""

from __future__ import annotations

from collections import defaultdict

from tests.faults import check_motia, check_tidelog
from tests.faults.check_log import check_items, check_numbers, check_writers
from tests.faults.check_motia import Known
from tests.faults.feed import Feed
from tests.faults.history import Channel, History
from tests.faults.motia_view import check_views
from tests.faults.problem import Problem

# Whether a snapshot has all that was acknowledged before its join was sent. Not yet: one that joins while
# another's snapshot is being read may share it.
JOINS_ARE_FRESH = False


def check(history: History, *, joins_are_fresh: bool = JOINS_ARE_FRESH) -> list[Problem]:
    """Every broken promise in the history; none if it is what it must be."""
    feed = Feed(history)
    problems = [Problem("trouble", "the run", trouble) for trouble in history.trouble]
    problems += check_numbers(history)
    problems += check_items(history, feed)
    problems += check_writers(history, feed)
    known = acknowledged(history, feed) if joins_are_fresh else None
    for subscriber in history.subscribers:
        if subscriber.dialect == "motia":
            problems += check_motia.check_subscriber(subscriber, feed, known)
            problems += check_views(subscriber, feed)
        else:
            problems += check_tidelog.check_subscriber(subscriber, feed)
    return problems


def acknowledged(history: History, feed: Feed) -> Known:
    """When which commit of each channel was known to be committed."""
    known: Known = defaultdict(list)
    for transaction in history.transactions:
        number = feed.number_of.get(transaction.xid or 0)
        if number is None or transaction.acknowledged_at is None:
            continue
        touched = {(e.stream, e.group_id, e.id) for e in transaction.effects if e.kind != "event"}
        channels = {Channel(*key) for key in touched} | {Channel(stream, group, None) for stream, group, _ in touched}
        for channel in channels:
            known[channel].append((transaction.acknowledged_at, number))
    return known
