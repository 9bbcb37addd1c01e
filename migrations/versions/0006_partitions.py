"""A log in partitions, an index of it by group, an era of xids, and who wrote each change.

Revision ID: 0006
Revises: 0005
"""

from pathlib import Path

from alembic import context, op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

SQL = Path(__file__).parent.parent / "sql"
IN_ORDER = (
    "lock_log.sql",
    "transaction_id.sql",
    "in_log.sql",
    "snapshot_bounds.sql",
    "partitions.sql",
    "make_partition.sql",
    "cut_partition.sql",
    "lay_out.sql",
    "begin_era.sql",
    "check_free.sql",
    "make_room.sql",
    "drop_histories.sql",
    "divide_log.sql",
    "commit_indexes.sql",
    "numbered_below.sql",
    "was_numbered.sql",
    "drop_partitions.sql",
    "make_history.sql",
    "make_histories.sql",
    "erase.sql",
    "declare.sql",
    "grant_roles.sql",
    "privileges.sql",
)
OF_SEVERAL_STATEMENTS = {"snapshot_bounds.sql", "commit_indexes.sql", "privileges.sql", "forget_partitions.sql"}


def upgrade() -> None:
    for name in IN_ORDER:
        _execute(SQL / "0006_partitions" / name)


def downgrade() -> None:
    for name in (
        "0006_partitions/lock_log.sql",
        "0006_partitions/drop_histories.sql",
        "0006_partitions/one_table.sql",
        "0006_partitions/make_history_as_before.sql",
        "0006_partitions/make_histories.sql",
        "0002_guards/declare.sql",
        "0005_roles/grant_roles.sql",
        "0006_partitions/forget_partitions.sql",
    ):
        _execute(SQL / name)


def _execute(path: Path) -> None:
    text = path.read_text().replace("\ncreate function", "\ncreate or replace function")
    for statement in text.split(";\n\n") if path.name in OF_SEVERAL_STATEMENTS else [text]:
        if context.is_offline_mode():
            op.get_context().impl.static_output(statement.rstrip().removesuffix(";") + ";\n")
        else:
            # Not op.execute: it would take ":name" in a function's body for a parameter.
            op.get_bind().exec_driver_sql(statement)
