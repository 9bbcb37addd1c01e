"""What is written in a run: the streams, groups and items, and data that no two writes share."""

from __future__ import annotations

from random import Random

from tests.faults.history import Document

STREAMS = ("ledger", "shelf")  # their tables have the same names
GROUPS = ("g0", "g1", "g2", "g3")
IDS = tuple(f"i{n}" for n in range(6))

# Few keys, and the first ones more often: writers meet, and items go and come back.
_GROUP_WEIGHTS = (5, 2, 1, 1)
_PAD_SIZES = (0, 20, 400, 30_000)
_PAD_WEIGHTS = (50, 30, 18, 2)


def draw_key(random: Random) -> tuple[str, str, str]:
    """Stream, group, id."""
    return random.choice(STREAMS), random.choices(GROUPS, _GROUP_WEIGHTS)[0], random.choice(IDS)


def draw_data(random: Random, stamp: str) -> Document:
    """An item or event that bears the stamp, mostly small."""
    data: Document = {"stamp": stamp, "n": random.randrange(1000)}
    if size := random.choices(_PAD_SIZES, _PAD_WEIGHTS)[0]:
        data["pad"] = random.choice('aé\\"\n🙂') * size
    return data


class Stamps:
    """Unique names for the writes of one writer."""

    def __init__(self, writer: str) -> None:
        self._writer = writer
        self._count = 0

    def next(self) -> str:
        self._count += 1
        return f"{self._writer}.{self._count}"
