"""Stream steps that only some processes have; keys that are not due cost nothing; erasure in the queue.

Revision ID: 0015
Revises: 0014
"""

from pathlib import Path

from alembic import context, op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

SQL = Path(__file__).parent.parent / "sql"
FUNCTIONS = ("claim_jobs", "retry_parked", "drop_parked", "erase", "grant_jobs")


def upgrade() -> None:
    for statement in (SQL / "0015_queue/tables.sql").read_text().split(";\n\n"):
        _execute(statement)
    for name in FUNCTIONS:
        _execute((SQL / f"0015_queue/{name}.sql").read_text())


def downgrade() -> None:
    op.execute("update streams.step_job set due_at = clock_timestamp() where due_at = 'infinity'")
    op.execute("drop table streams.step_stream")
    op.execute("drop index streams.step_job_due_keyed")
    op.execute("alter table streams.step_parked drop column claim")
    for name in FUNCTIONS:
        folder = "0006_partitions" if name == "erase" else "0011_jobs"
        text = (SQL / f"{folder}/{name}.sql").read_text()
        _execute(text.replace("\ncreate function", "\ncreate or replace function"))


def _execute(statement: str) -> None:
    if context.is_offline_mode():
        op.get_context().impl.static_output(statement.rstrip().removesuffix(";") + ";\n")
    else:
        # Not op.execute: it would take ":name" in a function's body for a parameter.
        op.get_bind().exec_driver_sql(statement)
