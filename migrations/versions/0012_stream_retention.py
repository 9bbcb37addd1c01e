"""How far the changes of each stream were removed, where it keeps less than the log does.

Revision ID: 0012
Revises: 0011
"""

from pathlib import Path

from alembic import context, op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

SQL = Path(__file__).parent.parent / "sql"


IN_ORDER = (
    "stream_floor",
    "floor_of_stream",
    "position_of_stream",
    "span_of_stream",
    "make_time_travel",
    "reconcile",
    "grant_roles",
    "privileges",
)


def upgrade() -> None:
    for name in IN_ORDER:
        _execute(f"0012_stream_retention/{name}")


def downgrade() -> None:
    for name in (
        "0002_guards/reconcile",
        "0006_partitions/grant_roles",
        "0007_time_travel/make_time_travel",
        "0012_stream_retention/forget_floors",
    ):
        _execute(name)


def _execute(name: str) -> None:
    text = (SQL / f"{name}.sql").read_text().replace("\ncreate function", "\ncreate or replace function")
    for statement in text.split("\n\ncreate "):
        _run(statement if statement.startswith("--") else "create " + statement)


def _run(statement: str) -> None:
    if context.is_offline_mode():
        op.get_context().impl.static_output(statement.rstrip().removesuffix(";") + ";\n")
    else:
        # Not op.execute: it would take ":name" in a function's body for a parameter.
        op.get_bind().exec_driver_sql(statement)
