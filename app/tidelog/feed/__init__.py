"""From commit to subscriber: doorbell, sequencer, reader, broadcaster. Knows nothing of HTTP or wire formats."""
