"""What things are: streams, steps, changes, commits. No I/O."""
