"""Items and events that their readers can take, versions that are ours, a trigger that sees what is stored.

Revision ID: 0004
Revises: 0003
"""

from pathlib import Path

from alembic import context, op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

SQL = Path(__file__).parent.parent / "sql"
IN_ORDER = (
    "lock_tables.sql",
    "check_json.sql",
    "complete_item.sql",
    "record_change.sql",
    "check_event.sql",
    "examine_table.sql",
    "examine.sql",
    "make_triggers.sql",
    "rename_triggers.sql",
)
AS_BEFORE = (
    "complete_item.sql",
    "record_change.sql",
    "check_event.sql",
    "examine_table.sql",
    "examine.sql",
    "make_triggers.sql",
)


def upgrade() -> None:
    for name in IN_ORDER:
        _execute((SQL / "0004_limits" / name).read_text())


def downgrade() -> None:
    _execute((SQL / "0004_limits" / "lock_tables.sql").read_text())
    for name in AS_BEFORE:
        text = (SQL / "0002_guards" / name).read_text()
        _execute(text.replace("\ncreate function", "\ncreate or replace function"))
    _execute("drop function streams.check_json(jsonb, text, text, text)")
    _execute((SQL / "0004_limits" / "rename_triggers_back.sql").read_text())


def _execute(statement: str) -> None:
    if context.is_offline_mode():
        op.get_context().impl.static_output(statement.rstrip().removesuffix(";") + ";\n")
    else:
        # Not op.execute: it would take ":name" in a function's body for a parameter.
        op.get_bind().exec_driver_sql(statement)
