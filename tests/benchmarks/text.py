"""The items that are written and sent: the same on all sides, of the size of a chat message."""

TEXT = "The quick brown fox jumps over the lazy dog, and the tide comes in twice a day; " + "pack my box now."
N_DIGITS = 7  # items carry a number as text of fixed width: JSON has no leading zeros, and frames are of one length
N_MARK = b'"n": "'  # as Postgres prints jsonb


def item(n: int, id: str = "i1") -> str:
    """An item as JSON text, as Postgres prints it: keys by length."""
    return f'{{"n": "{n:0{N_DIGITS}d}", "id": "{id}", "text": "{TEXT}"}}'


def find_n(payload: bytes) -> int:
    """The number of the item in a message; ValueError if there is none."""
    start = payload.index(N_MARK) + len(N_MARK)
    return int(payload[start : start + N_DIGITS])
