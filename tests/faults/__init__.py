"""Real processes, random work, random faults; and a checker that says whether the feed kept its promises."""
