"""Who may: who sends a request, and which streams they may have. Knows no HTTP and no wire format."""
