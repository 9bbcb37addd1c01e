"""What a NOTIFY says is a hint, never a fact: anybody with a connection can send one.

It may cause a look at the database, which alone is believed; and looks that find nothing are not many.
"""

HEAD_CHANNEL = "tidelog_head"  # the sequencer's; the payload is said to be the new head
EPOCH_CHANNEL = "tidelog_epoch"  # comes before the first head of a new epoch

# Between looks of which one was in vain: a flood of forged hints costs so many looks, and a commit meanwhile so much.
PAUSE_SECONDS = 0.01

_DIGITS_MAX = 19  # of a bigint


def hinted_head(payload: object) -> int:
    """The head that a payload speaks of; 0, which is nobody's news, if it speaks of none."""
    text = str(payload)
    if len(text) > _DIGITS_MAX or not (text.isascii() and text.isdecimal()):
        return 0
    return min(int(text), 2**63 - 1)
