"""The statements of the feed, each in a file of its own under sql/."""

from pathlib import Path

_FOLDER = Path(__file__).parent / "sql"


def load(name: str) -> str:
    """The text of sql/<name>.sql."""
    return (_FOLDER / f"{name}.sql").read_text()
