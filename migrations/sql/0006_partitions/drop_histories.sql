-- Drop every history view, whose columns are about to be changed, and note what is to be made again: make_histories.sql. A
-- view that somebody has put on top of one keeps it from being dropped: he is told.
-- Locks: ACCESS EXCLUSIVE on the views.
do $$
declare
    one record;
begin
    create temporary table tidelog_histories on commit drop as
    select s.name, s.table_name, format('streams.%I', c.relname) as view, c.relacl, r.rolname as owner
    from streams.stream s
    join pg_class c on c.relname = s.table_name || '_history' and c.relnamespace = 'streams'::regnamespace and c.relkind = 'v'
    join pg_roles r on r.oid = c.relowner
    where pg_get_viewdef(c.oid) like '%streams.change%';
    for one in select * from pg_temp.tidelog_histories loop
        execute format('drop view %s', one.view);
    end loop;
exception when dependent_objects_still_exist then
    raise dependent_objects_still_exist using
        message = format('%s is made anew by this migration, and something depends on it; nothing was changed', one.view),
        detail = sqlerrm,
        hint = 'Drop what depends on it, migrate, and make it again.';
end
$$;
