-- Give a stream, its table, its own indexes, and the views and functions of its history another name. Answers how many
-- items it has.
--
-- Positions, versions and rows stay. In the log it is one commit: every item is deleted in the stream of the old name and
-- created in that of the new one, so that whoever follows either sees what its table has, and a history that is replayed
-- comes to the same. What was logged before stays under the old name.
--
-- A stream of the new name that has no item yet, as a server makes it of a file that was renamed, is dropped first.
-- Row-level security that would hide items from whoever runs this is an error.
--
-- Called by `tidelog rename-stream`. Locks: SHARE ROW EXCLUSIVE on the table while the items are logged, then ACCESS
-- EXCLUSIVE; the doorbell's.
create or replace function streams.rename_stream(old_name text, new_name text, new_table text) returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
declare
    known constant streams.stream := (select s from streams.stream s where s.name = old_name);
    old_table constant text := known.table_name;
    owner_name text;
    has_items boolean;
    index_name text;
    number bigint;
begin
    if old_table is null or to_regclass(format('streams.%I', old_table)) is null then
        raise undefined_object using
            message = format('no stream is named %L, or its table is gone', old_name), hint = 'See `tidelog streams`.';
    end if;
    select s.name into owner_name from streams.stream s where s.table_name = new_table and s.name <> old_name;
    if new_name = old_name
        or owner_name is not null and owner_name <> new_name
        or exists (select from streams.stream s where s.name = new_name and s.table_name <> new_table)
        or owner_name is null and new_table <> old_table and to_regclass(format('streams.%I', new_table)) is not null
    then
        raise duplicate_table using
            message = format('the name %s, or its table streams.%I, is taken', new_name, new_table), hint = 'Choose another name.';
    end if;
    if owner_name is not null and to_regclass(format('streams.%I', new_table)) is not null then
        perform streams.lock_patiently(new_table, 'access exclusive');
        execute format('select exists (select from streams.%I)', new_table) into has_items;
        if has_items then
            raise object_not_in_prerequisite_state using
                message = format('stream %s has items', new_name),
                hint = format(
                    'To have those of %1$s there, too: `insert into streams.%2$I (group_id, id, data) select group_id, id, '
                    'data from streams.%3$I;`, then `tidelog drop-stream %1$s`.', old_name, new_table, old_table
                );
        end if;
        perform streams.drop_stream(new_name);
    elsif owner_name is not null then
        delete from streams.stream where name = new_name;
    end if;

    perform streams.lock_patiently(old_table, 'share row exclusive');
    execute format(
        'insert into streams.change (stream, group_id, id, op, version, data)
         select %L, group_id, id, ''delete'', version, data from streams.%I order by created_at, id', old_name, old_table);
    execute format(
        'insert into streams.change (stream, group_id, id, op, version, data)
         select %L, group_id, id, ''create'', version, data from streams.%I order by created_at, id', new_name, old_table);
    get diagnostics number = row_count;

    perform streams.lock_patiently(old_table, 'access exclusive');
    if new_table <> old_table then
        execute format('alter table streams.%I rename to %I', old_table, new_table);
        execute format('alter view if exists streams.%I rename to %I', old_table || '_history', new_table || '_history');
        perform streams.rename_time_travel(old_table, new_table);
        for index_name in
            select i.name from jsonb_object_keys(known.indexes) as i (name)
            where to_regclass(format('streams.%I', i.name)) is not null
        loop
            execute format(
                'alter index streams.%I rename to %I', index_name, new_table || substr(index_name, length(old_table) + 1)
            );
        end loop;
    end if;
    update streams.stream set
        name = new_name,
        table_name = new_table,
        indexes = (
            select coalesce(jsonb_object_agg(new_table || substr(i.key, length(old_table) + 1), i.value), '{}')
            from jsonb_each(known.indexes) i
        )
    where name = old_name;
    perform streams.make_triggers(new_name, new_table);
    perform streams.declare(new_name, new_table, known.schema);
    perform streams.make_time_travel(new_name, new_table);
    perform streams.ring_doorbell();
    return number;
end
$$;
