-- Wake the workers if they sleep; called in every transaction that makes a job.
--
-- The same as streams.ring_doorbell, for another sleeper: a worker that is about to sleep takes the lock, and only while
-- somebody has it, there is a NOTIFY, which all workers hear. Under load nobody sleeps, and nobody notifies.
--
-- Locks: advisory (1953064044, 4) shared, to the end of the transaction; never waits. Reads and writes no table.
create function streams.ring_workers() returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if not pg_try_advisory_xact_lock_shared(1953064044, 4) and pg_notification_queue_usage() < 0.5 then
        perform pg_notify('tidelog_work', '');
    end if;
end
$$;
