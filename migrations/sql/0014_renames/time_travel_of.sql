-- What make_time_travel.sql makes for a stream's table, as far as it is there: the view of its log, and the functions over
-- it, each with the end of its name. Nothing of somebody else's that has such a name.
-- Called by rename_time_travel.sql and drop_time_travel.sql. Locks: none.
create function streams.time_travel_of(stream_table text)
returns table (is_view boolean, object text, suffix text)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select true, format('streams.%I', c.relname), '_log'
    from pg_class c
    where c.relnamespace = 'streams'::regnamespace
      and c.relname = ('_' || stream_table || '_log')::name
      and c.relkind = 'v'
      and obj_description(c.oid, 'pg_class') like 'Tidelog: %'
    union all
    select false, format('streams.%I(%s)', p.proname, pg_get_function_identity_arguments(p.oid)), suffix
    from unnest(array['_as_of', '_diff']) as suffix
    join pg_proc p on p.proname = (stream_table || suffix)::name
    where p.pronamespace = 'streams'::regnamespace
      and p.prorettype in ('streams._as_of_row'::regtype, 'streams._diff_row'::regtype)
$$;
