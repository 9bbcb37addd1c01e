"""Whether the database's log is what it promises to be, and what the writers know that they did."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

from tests.faults.feed import Feed, stamp_of
from tests.faults.history import ChangeRow, Effect, EventRow, History, Transaction
from tests.faults.problem import Problem


def check_numbers(history: History) -> Iterator[Problem]:
    """Numbers are dense from 1, one for each transaction, and every change and event has one."""
    commits = sorted(history.commits)
    for place, commit in enumerate(commits, start=1):
        if commit.number != place:
            yield Problem("numbers", "streams.commit", f"number {place} is missing: {commit} stands in its place")
            break
    for xid, times in Counter(commit.xid for commit in commits).items():
        if times > 1:
            yield Problem("numbers", "streams.commit", f"transaction {xid} has {times} numbers")
    for before, after in pairwise(commits):
        if after.at_us < before.at_us + 10:
            yield Problem("numbers", "streams.commit", f"less than 10 microseconds from {before} to {after}")
    numbered = {commit.xid for commit in commits}
    for change in history.changes:
        if change.xid not in numbered:
            yield Problem("lost", "streams.commit", f"a change has no number: {change}")
    for event in () if history.may_lose_events else history.events:
        if event.xid not in numbered:
            yield Problem("lost", "streams.commit", f"an event has no number: {event}")
    used = {row.xid for row in history.changes} | {row.xid for row in history.events}
    for commit in () if history.may_lose_events else commits:
        if commit.xid not in used:
            yield Problem("numbers", "streams.commit", f"nothing was written in {commit}")


def check_items(history: History, feed: Feed) -> Iterator[Problem]:
    """Each item's changes come in the order in which the database made them, and end in what the table has."""
    by_item: dict[tuple[str, str, str], list[ChangeRow]] = defaultdict(list)
    for change in history.changes:
        if change.xid in feed.number_of:
            by_item[change.stream, change.group_id, change.id].append(change)
    present = {(item.stream, item.group_id, item.id): item for item in history.items}
    for key in by_item.keys() | present.keys():
        last: ChangeRow | None = None
        for change in sorted(by_item[key], key=lambda change: (feed.number_of[change.xid], change.seq)):
            if not _may_follow(last, change):
                yield Problem("order", "streams.change", f"after {last} of {key} came {change}")
                break
            last = change
        else:
            item = present.get(key)
            folded = None if last is None or last.op == "delete" else (last.version, last.data)
            if folded != (None if item is None else (item.version, item.data)):
                yield Problem("fold", "streams.change", f"{key} is {item} in the table, and {last} came last")


def check_writers(history: History, feed: Feed) -> Iterator[Problem]:
    """What was committed is in the log, whole and in order; what was rolled back is not."""
    changes: dict[int, list[ChangeRow]] = defaultdict(list)
    events: dict[int, list[EventRow]] = defaultdict(list)
    xid_of: dict[str | None, int] = {}
    for change in sorted(history.changes):
        changes[change.xid].append(change)
        if change.op != "delete":
            xid_of[stamp_of(change.data)] = change.xid
    for event in sorted(history.events, key=lambda event: event.seq):
        events[event.xid].append(event)
        xid_of[stamp_of(event.data)] = event.xid
    accounted: set[int] = set()
    for transaction in history.transactions:
        xid = _xid(transaction, xid_of, crashed=history.may_lose_events)
        logged = [*changes.get(xid or 0, ()), *events.get(xid or 0, ())]
        accounted |= {xid or 0, (transaction.xid or 0) if transaction.outcome == "unknown" else 0}
        yield from _check_transaction(transaction, logged, history.may_lose_events)
    for xid in changes.keys() - accounted:
        yield Problem("invented", "streams.change", f"nobody wrote transaction {xid}: {changes[xid]}")
    for number, commit in ((feed.number_of.get(xid), xid) for xid in events.keys() - accounted):
        yield Problem("invented", "streams.event", f"nobody sent the events of commit {number}: {events[commit]}")


def _xid(transaction: Transaction, xid_of: dict[str | None, int], *, crashed: bool) -> int | None:
    """Under which xid the log has it: the one that the writer was told, or by its stamps.

    After a crash, Postgres gives an xid that has left no trace in its log to another transaction: only that of
    a commit that changed something is then sure to be the writer's.
    """
    own = (effect.stamp for effect in transaction.effects if effect.kind != "delete")
    has_changes = any(effect.kind != "event" for effect in transaction.effects)
    logged = next((xid_of[stamp] for stamp in own if stamp in xid_of), None)
    is_sure = transaction.xid is not None and (not crashed or (transaction.outcome == "committed" and has_changes))
    return transaction.xid if is_sure else logged


def _check_transaction(
    transaction: Transaction, logged: list[ChangeRow | EventRow], may_lose_events: bool
) -> Iterator[Problem]:
    where = f"a transaction of {transaction.writer}"
    if transaction.outcome == "rolled back":
        if logged:
            yield Problem("invented", where, f"rolled back, but in the log: {transaction} as {logged}")
        return
    if transaction.outcome == "unknown" and not logged:
        return
    done = [effect for effect in transaction.effects if effect.kind != "event"]
    found = [effect for row in logged for effect in _effects(row)]
    if not _agree(done, [effect for effect in found if effect.kind != "event"]):
        yield Problem("capture", where, f"did {done}, but the log has {logged}")
    sent = [effect for effect in transaction.effects if effect.kind == "event"]
    if not may_lose_events and not _agree(sent, [effect for effect in found if effect.kind == "event"]):
        yield Problem("capture", where, f"sent {sent}, but the log has {logged}")


def _agree(done: list[Effect], found: list[Effect]) -> bool:
    """Whether the log has what was done, in order. A delete whose stamp is not known may have found nothing."""
    if any(effect.stamp is None for effect in done):
        sets = [effect for effect in done if effect.stamp is not None]
        return sets == [effect for effect in found if effect.kind != "delete"]
    return done == found


def _effects(row: ChangeRow | EventRow) -> Iterator[Effect]:
    if isinstance(row, EventRow):
        yield Effect("event", row.stream, row.group_id, row.id, stamp_of(row.data))
    else:
        kind: Literal["set", "delete"] = "delete" if row.op == "delete" else "set"
        yield Effect(kind, row.stream, row.group_id, row.id, stamp_of(row.data))


def _may_follow(before: ChangeRow | None, after: ChangeRow) -> bool:
    if before is None or before.op == "delete":
        return after.op == "create"
    if after.op == "delete":
        return (after.version, after.data) == (before.version, before.data)
    return after.op == "update" and after.version == before.version + 1
