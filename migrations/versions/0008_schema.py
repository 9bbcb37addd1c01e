"""What becomes of a stream's table: the authors' own indexes, keys that are `collate "C"`, renaming, dropping.

Revision ID: 0008
Revises: 0007
"""

from pathlib import Path

from alembic import context, op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

SQL = Path(__file__).parent.parent / "sql" / "0008_schema"
IN_ORDER = (
    "stream_indexes.sql",
    "lock_patiently.sql",
    "convert_keys.sql",
    "declare_stream.sql",
    "examine_own.sql",
    "drop_stream.sql",
    "rename_stream.sql",
)


def upgrade() -> None:
    for name in IN_ORDER:
        _execute((SQL / name).read_text())


def downgrade() -> None:
    for function in (
        "examine_own(text)",
        "rename_stream(text, text, text)",
        "drop_stream(text)",
        "declare_stream(text, text, jsonb)",
        "convert_keys(text)",
        "lock_patiently(text, text)",
    ):
        op.execute(f"drop function streams.{function}")
    # The indexes stay, as do the keys: they do no harm.
    op.execute("alter table streams.stream drop column indexes")


def _execute(statement: str) -> None:
    if context.is_offline_mode():
        op.get_context().impl.static_output(statement.rstrip().removesuffix(";") + ";\n")
    else:
        # Not op.execute: it would take ":name" in a function's body for a parameter.
        op.get_bind().exec_driver_sql(statement)
