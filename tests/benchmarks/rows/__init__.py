"""All rows, in the order of the table."""

from tests.benchmarks.rows import (
    access,
    brokers,
    bulk,
    catching_up,
    events,
    fan_out,
    growth,
    idle,
    interest,
    latency,
    processes,
    retention,
    step,
    write,
)

ROWS = (
    *write.ROWS,
    *latency.ROWS,
    *fan_out.ROWS,
    *processes.ROWS,
    *step.ROWS,
    *events.ROWS,
    *catching_up.ROWS,
    *brokers.ROWS,
    *idle.ROWS,
    *interest.ROWS,
    *bulk.ROWS,
    *access.ROWS,
    *growth.ROWS,
    *retention.ROWS,
)
