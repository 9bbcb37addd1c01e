"""The pages say what the settings are."""

from __future__ import annotations

from tests.settings_table import PAGE, with_table


def test_every_setting_is_in_the_page_as_it_is() -> None:
    """If not: `python -m tests.settings_table`."""
    page = PAGE.read_text()
    assert with_table(page) == page and "TIDELOG_DATABASE_URL" in page
