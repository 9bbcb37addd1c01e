"""The core: change log, commits, events, and the functions that streams are made with.

Revision ID: 0001
Revises:
"""

from pathlib import Path

from alembic import context, op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SQL = Path(__file__).parent.parent / "sql" / "0001_core"
TABLES = "tables.sql"
IN_ORDER = (
    "ring_doorbell.sql",
    "complete_item.sql",
    "record_change.sql",
    "refuse_truncate.sql",
    "send.sql",
    "declare.sql",
    "privileges.sql",
    "first_epoch.sql",
)


def upgrade() -> None:
    # asyncpg prepares what it is given, and Postgres prepares one statement at a time: the file of tables is
    # taken apart where a statement ends before an empty line, the others have one each.
    for statement in (SQL / TABLES).read_text().split(";\n\n"):
        _execute(statement)
    for name in IN_ORDER:
        _execute((SQL / name).read_text())


def _execute(statement: str) -> None:
    if context.is_offline_mode():
        op.get_context().impl.static_output(statement.rstrip().removesuffix(";") + ";\n")
    else:
        # Not op.execute: it would take ":name" in a function's body for a parameter.
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    raise NotImplementedError("The core holds every stream's items and history: drop the schema `streams` by hand.")
