"""Workers: they run the steps that react to events, to the clock and to changes of streams."""
