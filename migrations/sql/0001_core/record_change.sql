-- AFTER INSERT, UPDATE, DELETE on every stream table, for each row: copy the change into the log.
-- The argument is the stream's name. A key that moves is a delete and a create.
--
-- Data that is no object is refused, and keys of which two may not fit an index entry. (The index itself refuses, as
-- program_limit_exceeded, what is much too long.) Not by CHECK constraints: Postgres reads the text of each, and makes a
-- plan of it, anew in every statement; three of them were a quarter of all that a write cost. The functions in an
-- expression cost some of that in every transaction, so there are few here.
--
-- A row trigger, because statement triggers don't fire for logical replication's apply. SECURITY DEFINER,
-- so that who may write a stream need not (and must not) write the log; the search_path is pinned for that.
-- Locks: the doorbell's (see streams.ring_doorbell, repeated here to save a call for each row).
create function streams.record_change() returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if jsonb_typeof(new.data) <> 'object' then
        raise check_violation using
            message = format('data of %I.%I must be a JSON object', tg_table_schema, tg_table_name),
            schema = tg_table_schema, table = tg_table_name, column = 'data';
    end if;
    if tg_op = 'UPDATE' and new.id = old.id and new.group_id = old.group_id then
        if new.version = old.version and new.data = old.data then
            return null;  -- nothing changed; not by WHEN, which is planned anew in every statement
        end if;
        insert into streams.change (stream, group_id, id, op, version, data)
        values (tg_argv[0], new.group_id, new.id, 'update', new.version, new.data);
    else
        if tg_op <> 'INSERT' then
            insert into streams.change (stream, group_id, id, op, version, data)
            values (tg_argv[0], old.group_id, old.id, 'delete', old.version, old.data);
        end if;
        if tg_op <> 'DELETE' then
            if octet_length(new.group_id) not between 1 and 1024 or octet_length(new.id) not between 1 and 1024 then
                raise check_violation using
                    message = format('group_id and id of %I.%I must have 1 to 1024 bytes', tg_table_schema, tg_table_name),
                    schema = tg_table_schema, table = tg_table_name;
            end if;
            insert into streams.change (stream, group_id, id, op, version, data)
            values (tg_argv[0], new.group_id, new.id, 'create', new.version, new.data);
        end if;
    end if;
    if not pg_try_advisory_xact_lock_shared(1953064044, 2) then
        perform pg_notify('tidelog_doorbell', '');
    end if;
    return null;
end
$$;
