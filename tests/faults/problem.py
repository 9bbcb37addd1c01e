"""What the checker objects to."""

from typing import NamedTuple


class Problem(NamedTuple):
    """One broken promise: which (lost, repeated, order, half, ...), where it shows, and the rows or frames."""

    kind: str
    where: str
    detail: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}: {self.detail:.2000}"
