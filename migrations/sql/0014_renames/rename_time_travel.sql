-- Give the view of a stream's log, and the functions over it, the names of another table. Who may use them still may, and
-- what is built on them stays. What they read is for make_time_travel.sql to set right. Called by streams.rename_stream.
-- Locks: ACCESS EXCLUSIVE on the view.
create function streams.rename_time_travel(old_table text, new_table text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    made record;
begin
    perform streams.drop_time_travel(new_table);  -- of a stream of that name that was dropped by an earlier release
    for made in select * from streams.time_travel_of(old_table) loop
        if made.is_view then
            execute format('alter view %s rename to %I', made.object, '_' || new_table || made.suffix);
        else
            execute format('alter function %s rename to %I', made.object, new_table || made.suffix);
        end if;
    end loop;
end
$$;
