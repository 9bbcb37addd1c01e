-- Drop the view of a stream's log, and the functions over it. What somebody has built on them is an error.
-- Called by streams.drop_stream. Locks: ACCESS EXCLUSIVE on the view.
create function streams.drop_time_travel(stream_table text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    made record;
begin
    for made in select * from streams.time_travel_of(stream_table) order by is_view loop
        execute format('drop %s %s', case when made.is_view then 'view' else 'function' end, made.object);
    end loop;
end
$$;
