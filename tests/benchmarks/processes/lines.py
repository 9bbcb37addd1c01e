"""JSON lines between a benchmark and the programs that it runs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

READ_SIZE_BYTES = 256 * 1024


class Lines:
    """Lines of a descriptor, as they come, for who waits for several descriptors."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.ended = False
        self._parts: list[bytes] = []

    def read(self) -> Iterator[Any]:
        """What the lines say that are complete now."""
        data = os.read(self.descriptor, READ_SIZE_BYTES)
        self.ended = not data
        self._parts.append(data)
        if b"\n" in data:
            *lines, rest = b"".join(self._parts).split(b"\n")
            self._parts = [rest]
            yield from map(json.loads, lines)


def say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)
