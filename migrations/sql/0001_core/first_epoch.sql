-- The epoch that the log begins in. From here on the log says which cluster wrote it, also if a dump is made
-- before the first sequencer ran. (What the columns are: tables.sql. The timeline: app/tidelog/store/sql/epoch_state.sql.)
insert into streams.epoch (system_identifier, timeline, database, log, since_number, began_at)
select
    (select system_identifier from pg_control_system()),
    ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint,
    (select oid from pg_database where datname = current_database()),
    'streams.commit'::regclass,
    0,
    clock_timestamp();
