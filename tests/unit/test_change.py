"""A commit's net changes."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from tidelog.model.change import Change, Operation, net_changes

ITEMS = ("a", "b", "c")


def write(existing: frozenset[str], writes: Sequence[tuple[str, bool]]) -> tuple[list[Change], set[str]]:
    """The changes that a transaction logs when it sets (or else deletes) items, and what exists after it."""
    exists = set(existing)
    changes = []
    for seq, (id, is_set) in enumerate(writes):
        if not is_set and id not in exists:
            continue
        op: Operation = "delete" if not is_set else "update" if id in exists else "create"
        exists.symmetric_difference_update({id} if op != "update" else ())
        changes.append(Change(seq, op, id, seq, f'{{"seq":{seq}}}'))
    return changes, exists


@given(
    existing=st.frozensets(st.sampled_from(ITEMS)),
    writes=st.lists(st.tuples(st.sampled_from(ITEMS), st.booleans()), max_size=12),
)
def test_net_changes_are_the_difference_between_before_and_after(
    existing: frozenset[str], writes: list[tuple[str, bool]]
) -> None:
    """Each item that was touched has one change, told from its state before the commit to that after it."""
    changes, after = write(existing, writes)
    last = {change.id: change for change in changes}
    expected = {}
    for id, change in last.items():
        if id in existing or id in after:
            op: Operation = "delete" if id not in after else "update" if id in existing else "create"
            expected[id] = Change(change.seq, op, id, change.version, change.data)
    net = net_changes(changes)
    assert {change.id: change for change in net} == expected
    assert [change.seq for change in net] == sorted(change.seq for change in expected.values())
