"""From commit to number: the sequencer, who stands by for it, its doorbell and what it removes. Knows no readers."""
