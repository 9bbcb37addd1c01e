"""Running authors' steps: what a handler gets, its transaction, its time, its retries. Knows nothing of HTTP."""
