-- End the backend with pid $1, which has the sequencer's lock, if it has been waiting for its client for $2; at most one
-- row: whether it is gone. No row: it was at work, or its lock is free.
--
-- A sequencer that works asks something at least every second. One whose process is stopped, or whose network
-- is gone, leaves its backend idle; or, with a full socket, waiting to send. Anything else, however long, is
-- work that whoever came instead would have to do as well: a commit's flush, a lock, a slow disk.
-- For a role that may not see the other's state, both columns are null: then $3 says whether it is to be ended.
--
-- Raises insufficient_privilege unless we are a superuser, the same role or a member of it, or of
-- pg_signal_backend. Waits up to a second for the backend to go: one that is itself stopped stays.
-- Called by a standby. Locks: none.
select pg_terminate_backend(a.pid, 1000) as is_gone
from pg_stat_activity a
where a.pid = $1
  and exists (
        select from pg_locks l
        where l.pid = a.pid
          and l.locktype = 'advisory'
          and l.database = (select d.oid from pg_database d where d.datname = current_database())
          and l.classid = 1953064044 and l.objid = 1 and l.objsubid = 2  -- 2: a key of two numbers
          and l.granted
    )
  and coalesce(
        (a.state = 'idle' or a.wait_event_type = 'Client') and clock_timestamp() - a.state_change >= $2::interval,
        $3
    )
