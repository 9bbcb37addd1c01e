-- AFTER INSERT, UPDATE, DELETE on every stream table, for each row: copy the change into the log.
-- The arguments are the stream's name and its table's. A key that moves is a delete and a create.
--
-- A table that has another name now, or another schema, is refused: it was renamed, and its rows are not that stream's
-- items any more. (A trigger of before this check has one argument, and passes.)
--
-- An item that is too much for its readers is refused (check_json.sql), and keys of which two may not fit an index
-- entry. (The index itself refuses, as program_limit_exceeded, what is much too long.) Not by CHECK constraints: Postgres
-- reads the text of each, and makes a plan of it, anew in every statement; three of them were a quarter of all that a
-- write cost. Each expression, and each function in it, costs some of that in every transaction, so there are few here.
--
-- A row trigger, because statement triggers don't fire for logical replication's apply. SECURITY DEFINER,
-- so that who may write a stream need not (and must not) write the log. It runs in the writer's search_path, and so
-- nothing may be looked up there: see complete_item.sql for how this is written.
-- Locks: the doorbell's (see streams.ring_doorbell, repeated here to save a call for each row).
create or replace function streams.record_change() returns trigger
language plpgsql
security definer
as $$
declare
    written constant pg_catalog.text := new.data::pg_catalog.text;
begin
    if pg_catalog.octet_length(written) operator(pg_catalog.>) 402
        or tg_argv[1] operator(pg_catalog.<>) tg_table_name
        or tg_table_schema operator(pg_catalog.<>) 'streams'::pg_catalog.name
    then
        if pg_catalog.octet_length(written) operator(pg_catalog.>) 4300
            or pg_catalog.jsonb_path_exists(new.data, 'strict $.**{201}'::pg_catalog.jsonpath)
        then
            -- An item of before the limits may stay as it is.
            if (tg_op operator(pg_catalog.=) 'INSERT'::pg_catalog.text or new.version operator(pg_catalog.<>) old.version)
                and not streams.check_json(new.data, written, 'data of streams.%I', tg_table_name::pg_catalog.text)
            then
                return null;
            end if;
        end if;
        if tg_argv[1] operator(pg_catalog.<>) tg_table_name
            or tg_table_schema operator(pg_catalog.<>) 'streams'::pg_catalog.name
        then
            raise object_not_in_prerequisite_state using
                message = pg_catalog.format(
                    '%I.%I was renamed: it has the triggers of stream %s, whose table is streams.%I',
                    tg_table_schema, tg_table_name, tg_argv[0], tg_argv[1]
                ),
                hint = pg_catalog.format(
                    'To keep it as a plain table run: drop trigger tidelog_record on %1$I.%2$I; '
                    'drop trigger "~tidelog_complete" on %1$I.%2$I; drop trigger tidelog_refuse_truncate on %1$I.%2$I; '
                    'If it is to be a stream''s table, scripts/migrate (installed: tidelog migrate) says what to do.',
                    tg_table_schema, tg_table_name
                ),
                schema = tg_table_schema, table = tg_table_name;
        end if;
    end if;
    if tg_op operator(pg_catalog.=) 'UPDATE'::pg_catalog.text and new.id operator(pg_catalog.=) old.id
        and new.group_id operator(pg_catalog.=) old.group_id
    then
        if new.version operator(pg_catalog.=) old.version and new.data operator(pg_catalog.=) old.data then
            return null;  -- nothing changed; not by WHEN, which is planned anew in every statement
        end if;
        insert into streams.change (stream, group_id, id, op, version, data)
        values (tg_argv[0], new.group_id, new.id, 'update', new.version, new.data);
    else
        if tg_op operator(pg_catalog.<>) 'INSERT'::pg_catalog.text then
            insert into streams.change (stream, group_id, id, op, version, data)
            values (tg_argv[0], old.group_id, old.id, 'delete', old.version, old.data);
        end if;
        if tg_op operator(pg_catalog.<>) 'DELETE'::pg_catalog.text then
            if pg_catalog.octet_length(new.group_id) operator(pg_catalog.<) 1
                or pg_catalog.octet_length(new.group_id) operator(pg_catalog.>) 1024
                or pg_catalog.octet_length(new.id) operator(pg_catalog.<) 1
                or pg_catalog.octet_length(new.id) operator(pg_catalog.>) 1024
            then
                raise check_violation using
                    message = pg_catalog.format(
                        'group_id and id of %I.%I must have 1 to 1024 bytes', tg_table_schema, tg_table_name
                    ),
                    schema = tg_table_schema, table = tg_table_name;
            end if;
            insert into streams.change (stream, group_id, id, op, version, data)
            values (tg_argv[0], new.group_id, new.id, 'create', new.version, new.data);
        end if;
    end if;
    if not pg_catalog.pg_try_advisory_xact_lock_shared(1953064044, 2)
        and pg_catalog.pg_notification_queue_usage() operator(pg_catalog.<) 0.5
    then
        perform pg_catalog.pg_notify('tidelog_doorbell', '');
    end if;
    return null;
end
$$;
