-- Wake the sequencer if it sleeps; called by every writer, once for each row.
--
-- NOTIFY takes a lock over the whole cluster until the notifying transaction's commit is flushed, so a bell
-- rung by every writer would serialise all commits. The sequencer therefore holds the doorbell's lock
-- exclusively while it sleeps and at no other time; a writer that gets its shared side knows that the
-- sequencer is awake, and does not ring. It keeps the shared side to the end of its transaction, and a
-- commit becomes visible before its locks are released, so the sequencer can't fall asleep (take the lock)
-- while an unrung writer is in flight: what it reads after taking the lock has that writer's changes.
--
-- Where the queue of NOTIFYs is half full nobody rings, as a NOTIFY that finds it full fails the commit: the sequencer looks
-- every second by itself, and stays awake from much less on.
--
-- Locks: advisory (1953064044, 2) shared, to the end of the transaction; never waits. The key's first half
-- is "tidl" in ASCII. Any writer's role may call it: it reads and writes no table.
create or replace function streams.ring_doorbell() returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if not pg_try_advisory_xact_lock_shared(1953064044, 2) and pg_notification_queue_usage() < 0.5 then
        perform pg_notify('tidelog_doorbell', '');
    end if;
end
$$;
