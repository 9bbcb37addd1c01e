-- Drop a stream: its table, the views and functions of its history, its row in streams.stream. Answers how many items it
-- had.
--
-- They are logged as deleted, in the same commit, so that subscribers and consumers see them go. What is in the log stays
-- there, until retention removes it: `select ... from streams.change where stream = ...`. Row-level security that would hide
-- items from whoever runs this is an error, and so is a view of somebody's on what is dropped. A table that is gone already is
-- no trouble; then nothing is logged.
--
-- Called by `tidelog drop-stream`. Locks: SHARE ROW EXCLUSIVE on the table while the items are logged, then ACCESS
-- EXCLUSIVE; the doorbell's.
create or replace function streams.drop_stream(stream_name text) returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
declare
    stream_table constant text := (select s.table_name from streams.stream s where s.name = stream_name);
    number bigint := 0;
begin
    if stream_table is null then
        raise undefined_object using
            message = format('no stream is named %L', stream_name), hint = 'See `tidelog streams`.';
    end if;
    if to_regclass(format('streams.%I', stream_table)) is not null then
        perform streams.lock_patiently(stream_table, 'share row exclusive');
        execute format(
            'insert into streams.change (stream, group_id, id, op, version, data)
             select %L, group_id, id, ''delete'', version, data from streams.%I order by created_at, id',
            stream_name, stream_table);
        get diagnostics number = row_count;
        perform streams.lock_patiently(stream_table, 'access exclusive');
    end if;
    perform streams.drop_time_travel(stream_table);
    execute format('drop view if exists streams.%I', stream_table || '_history');
    execute format('drop table if exists streams.%I', stream_table);
    delete from streams.stream where name = stream_name;
    if number > 0 then
        perform streams.ring_doorbell();
    end if;
    return number;
end
$$;
