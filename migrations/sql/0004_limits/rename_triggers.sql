-- Have complete_item fire after every other BEFORE trigger, so that it sees what will be stored: triggers fire in the
-- order of their names, compared by bytes, and "~" is the last printable character of ASCII.
-- Locks: those of lock_tables.sql.
do $$
declare
    relation text;
begin
    for relation in
        select t.tgrelid::regclass::text
        from pg_trigger t
        where t.tgfoid = 'streams.complete_item()'::regprocedure and not t.tgisinternal and t.tgname = 'tidelog_complete'
    loop
        execute format('alter trigger tidelog_complete on %s rename to "~tidelog_complete"', relation);
    end loop;
end
$$;
