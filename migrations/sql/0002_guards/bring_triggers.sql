-- Tell the triggers of the stream tables that are there which table they belong to (record_change.sql).
-- A table that was renamed gets the name that its stream's table has: writes to it are refused from here on.
-- Locks: those of lock_tables.sql.
do $$
declare
    found_trigger record;
begin
    for found_trigger in
        select t.tgrelid::regclass::text as relation, t.tgname as name, a.stream, s.table_name
        from pg_trigger t
        cross join lateral (select (string_to_array(encode(t.tgargs, 'escape'), '\000'))[1] as stream) a
        join streams.stream s on s.name = a.stream
        where t.tgfoid = 'streams.record_change()'::regprocedure and not t.tgisinternal and t.tgnargs = 1
    loop
        execute format(
            'create or replace trigger %I after insert or update or delete on %s
             for each row execute function streams.record_change(%L, %L)',
            found_trigger.name, found_trigger.relation, found_trigger.stream, found_trigger.table_name
        );
        execute format('alter table %s enable always trigger %I', found_trigger.relation, found_trigger.name);
    end loop;
end
$$;
