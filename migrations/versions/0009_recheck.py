"""streams.recheck(): have the rules asked again for subscriptions, from SQL.

Revision ID: 0009
Revises: 0008
"""

from pathlib import Path

from alembic import context, op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

SQL = Path(__file__).parent.parent / "sql" / "0009_recheck"


def upgrade() -> None:
    _execute((SQL / "recheck.sql").read_text())


def downgrade() -> None:
    op.execute("drop function streams.recheck(text, text, text)")


def _execute(statement: str) -> None:
    if context.is_offline_mode():
        op.get_context().impl.static_output(statement.rstrip().removesuffix(";") + ";\n")
    else:
        # Not op.execute: it would take ":name" in a function's body for a parameter.
        op.get_bind().exec_driver_sql(statement)
