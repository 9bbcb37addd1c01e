-- What a transaction is called in the log: its xid, in an era of xids.
--
-- A cluster never gives out an xid twice, but another one, into which a dump is restored, does. So the log's number has
-- the era in its upper 16 bits and the cluster's xid in the lower 48 (281,474,976,710,656 of them: 800 years of 10,000
-- transactions a second). Adopting a restored log (app/tidelog/store/adoption.py) replaces this function and
-- streams.in_log by those of the next era: what is written from then on comes after all that the log has, and no row is
-- touched. In era 0 the two numbers are the same, and cost nothing.
--
-- BEGIN ATOMIC would do as well as RETURN: names are looked up now, whatever search_path the writer has.
-- Called as the default of streams.change.xid and streams.event.xid. Locks: none.
create function streams.transaction_id() returns xid8
language sql
stable
return pg_catalog.pg_current_xact_id();
