"""A stream that is renamed or dropped takes the view and the functions of its history along.

Revision ID: 0014
Revises: 0013
"""

from pathlib import Path

from alembic import context, op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

SQL = Path(__file__).parent.parent / "sql"
IN_ORDER = ("time_travel_of", "drop_time_travel", "rename_time_travel", "rename_stream", "drop_stream")


def upgrade() -> None:
    for name in IN_ORDER:
        _execute(f"0014_renames/{name}")


def downgrade() -> None:
    for name in ("rename_stream", "drop_stream"):
        _execute(f"0008_schema/{name}")
    op.execute("drop function streams.rename_time_travel(text, text)")
    op.execute("drop function streams.drop_time_travel(text)")
    op.execute("drop function streams.time_travel_of(text)")


def _execute(name: str) -> None:
    statement = (SQL / f"{name}.sql").read_text().replace("\ncreate function", "\ncreate or replace function")
    if context.is_offline_mode():
        op.get_context().impl.static_output(statement.rstrip().removesuffix(";") + ";\n")
    else:
        # Not op.execute: it would take ":name" in a function's body for a parameter.
        op.get_bind().exec_driver_sql(statement)
