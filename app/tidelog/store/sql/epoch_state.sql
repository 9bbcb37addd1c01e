-- Which database history the server is on, and which one the log was written in. One row.
--
-- The timeline is in the first eight hex digits of a WAL file's name; pg_control_checkpoint() would tell the last
-- checkpoint's, which may be older. `log_is_ahead`: xids in the log that this server has not given out yet. They
-- come from another one, whatever the newest row of streams.epoch says. (From 2^63 on they were adopted before there were eras.)
--
-- Called by a new sequencer, and by scripts/adopt. Locks: none.
with
here as (
    select
        (select system_identifier from pg_control_system()) as system_identifier,
        ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint as timeline,
        (select oid from pg_database where datname = current_database()) as database,
        'streams.commit'::regclass::oid as log
),
last as (
    select * from streams.epoch order by began_at desc limit 1
)
select
    last.epoch,
    here.system_identifier,
    last.system_identifier as log_system_identifier,
    (here.timeline, here.database, here.log) = (last.timeline, last.database, last.log) as goes_on,
    exists (select from streams.change) or exists (select from streams.commit) as has_log,
    coalesce(
        (select pg_snapshot_xmax(snapshot) from streams.commit order by number desc limit 1)
            > pg_snapshot_xmax(pg_current_snapshot()),
        false
    )
    or exists (
        select from streams.change
        where xid >= streams.in_log(pg_snapshot_xmax(pg_current_snapshot())) and xid < '9223372036854775808'::xid8
    ) as log_is_ahead
from here left join last on true
