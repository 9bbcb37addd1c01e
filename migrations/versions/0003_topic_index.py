"""An index of the log by transaction and topic: what a large commit touches is found without reading it.

Revision ID: 0003
Revises: 0002
"""

from pathlib import Path

from alembic import context, op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

SQL = Path(__file__).parent.parent / "sql" / "0003_topic_index" / "indexes.sql"


def upgrade() -> None:
    for statement in SQL.read_text().split(";\n\n"):
        if context.is_offline_mode():
            op.get_context().impl.static_output(statement.rstrip().removesuffix(";") + ";\n")
        else:
            op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    op.execute("drop index streams.change_topic")
    op.execute("drop index streams.event_topic")
