"""Stream tables that know their stream, events of those who may send them, triggers that need no search_path.

Revision ID: 0002
Revises: 0001
"""

from pathlib import Path

from alembic import context, op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

SQL = Path(__file__).parent.parent / "sql" / "0002_guards"
IN_ORDER = (
    "lock_tables.sql",
    "complete_item.sql",
    "record_change.sql",
    "bring_triggers.sql",
    "next_seq.sql",
    "check_event.sql",
    "event_rights.sql",
    "send.sql",
    "examine_table.sql",
    "examine.sql",
    "make_triggers.sql",
    "reconcile.sql",
    "declare.sql",
)


def upgrade() -> None:
    _execute("drop function streams.declare(text, text, jsonb)")  # its answer is of another type now
    for name in IN_ORDER:
        text = (SQL / name).read_text()
        # asyncpg prepares what it is given, and Postgres prepares one statement at a time.
        for statement in text.split(";\n\n") if name == "event_rights.sql" else [text]:
            _execute(statement)


def _execute(statement: str) -> None:
    if context.is_offline_mode():
        op.get_context().impl.static_output(statement.rstrip().removesuffix(";") + ";\n")
    else:
        # Not op.execute: it would take ":name" in a function's body for a parameter.
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    raise NotImplementedError("The core holds every stream's items and history: drop the schema `streams` by hand.")
