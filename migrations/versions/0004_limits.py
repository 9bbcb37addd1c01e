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
    "ring_doorbell.sql",
    "send.sql",
    "check_event.sql",
    "examine_table.sql",
    "examine.sql",
    "make_triggers.sql",
    "rename_triggers.sql",
)
AS_BEFORE = (
    "0002_guards/complete_item.sql",
    "0002_guards/record_change.sql",
    "0001_core/ring_doorbell.sql",
    "0002_guards/send.sql",
    "0002_guards/check_event.sql",
    "0002_guards/examine_table.sql",
    "0002_guards/examine.sql",
    "0002_guards/make_triggers.sql",
)


def upgrade() -> None:
    for name in IN_ORDER:
        _execute((SQL / "0004_limits" / name).read_text())


def downgrade() -> None:
    _execute((SQL / "0004_limits" / "lock_tables.sql").read_text())
    for name in AS_BEFORE:
        text = (SQL / name).read_text()
        _execute(text.replace("\ncreate function", "\ncreate or replace function"))
    _execute("drop function streams.check_json(jsonb, text, text, text)")
    _execute((SQL / "0004_limits" / "rename_triggers_back.sql").read_text())


def _execute(statement: str) -> None:
    if context.is_offline_mode():
        op.get_context().impl.static_output(statement.rstrip().removesuffix(";") + ";\n")
    else:
        # Not op.execute: it would take ":name" in a function's body for a parameter.
        op.get_bind().exec_driver_sql(statement)
