-- Vacuum streams.commit when a hundredth of it was removed, not a fifth. To plan a query of a history, Postgres looks for the
-- least xid in the index, and walks over all that was removed before: with a million of ten million it took 2 to 3 ms to plan
-- one rather than 0.4, and the rest of it was slower, too. A vacuum of so many takes a quarter of a second.
--
-- Locks: SHARE UPDATE EXCLUSIVE on streams.commit, for a moment; a vacuum that is under way is waited for, or gives way.
alter table streams.commit set (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 5000);
