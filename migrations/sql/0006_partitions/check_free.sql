-- Raise lock_not_available if a transaction that has used the log for longer than 50 ms is open: a request for an exclusive
-- lock would wait behind it, and all writers behind that. (Of a role whose sessions we may not see it is not known since when.)
-- Called by streams.make_room and streams.drop_partitions. Locks: none.
create function streams.check_free() returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if exists (
        select
        from pg_locks l
        join pg_stat_activity a on a.pid = l.pid
        where l.relation = 'streams.change'::regclass and l.database = (select oid from pg_database where datname = current_database())
          and l.granted and l.pid <> pg_backend_pid()
          and clock_timestamp() - a.xact_start > interval '50 milliseconds'
    ) then
        raise lock_not_available using message = 'a transaction that uses the log is open';
    end if;
end
$$;
