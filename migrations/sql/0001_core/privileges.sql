-- Only who owns the schema makes stream tables. Whoever may attach record_change, which writes the log with its
-- owner's rights, to a table of his own can put into any stream's feed what was never in its table. A trigger
-- that is there fires for every writer, whatever rights he has on its function.
revoke execute on function streams.record_change() from public;
