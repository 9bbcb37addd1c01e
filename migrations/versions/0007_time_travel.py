"""Time travel in SQL: for each stream, its items as of a position or a time, and what changed between two of them.

The functions of a stream are made at the end of every migration (env.py), as its table is.

Revision ID: 0007
Revises: 0006
"""

from pathlib import Path

from alembic import context, op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

SQL = Path(__file__).parent.parent / "sql" / "0007_time_travel"
IN_ORDER = (
    "floor.sql",
    "position_of.sql",
    "span_of.sql",
    "rows.sql",
    "make_time_travel.sql",
    "grant_time_travel.sql",
)


def upgrade() -> None:
    for name in IN_ORDER:
        for statement in (SQL / name).read_text().split("\n\ncreate "):
            _execute(statement if statement.startswith("--") else "create " + statement)


def downgrade() -> None:
    _execute((SQL / "drop_time_travel.sql").read_text())


def _execute(statement: str) -> None:
    if context.is_offline_mode():
        op.get_context().impl.static_output(statement.rstrip().removesuffix(";") + ";\n")
    else:
        # Not op.execute: it would take ":name" in a function's body for a parameter.
        op.get_bind().exec_driver_sql(statement)
