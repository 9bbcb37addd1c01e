"""What the triggers of a stream's table put into the log."""
