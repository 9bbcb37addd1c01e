-- Begin a new epoch in the history that the server is on, after number $1; answers it, and tells the readers.
-- Not where the queue of NOTIFYs is filling (0.1: notify_queue.py): it would fail if that is full. Readers look every second.
-- What the columns are, and where the timeline is read, is in epoch_state.sql.
-- Called by a new sequencer, and by scripts/adopt. Locks: none.
with begun as (
    insert into streams.epoch (system_identifier, timeline, database, log, since_number, began_at)
    select
        (select system_identifier from pg_control_system()),
        ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint,
        (select oid from pg_database where datname = current_database()),
        'streams.commit'::regclass,
        $1::bigint,
        greatest(clock_timestamp(), (select max(began_at) + interval '1 microsecond' from streams.epoch))
    returning epoch
)
select epoch, case when pg_notification_queue_usage() < 0.1 then pg_notify('tidelog_epoch', epoch::text) end from begun
