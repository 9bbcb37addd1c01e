-- BEFORE INSERT OR UPDATE on every stream table: what an item gets, whoever writes it.
-- Its data carries its id; its version counts its updates; an update that changes nothing leaves it alone. A version is
-- never the writer's, but in a session with session_replication_role = replica: logical replication's apply, or somebody
-- who restores items. An item that comes may have times of its own, for its place in the group.
--
-- Data that is no object is refused, as it can't carry an id. (All else is refused in record_change.sql, which an upsert
-- of an item that is there comes by only once.)
--
-- The trigger's name sorts behind all others of ASCII, so that this sees what is stored (rename_triggers.sql).
--
-- No search_path is set, which costs each call some percent of a write. Instead every name is written out: functions,
-- types (a temporary table may be named `text`) and operators, also those that hide in IS DISTINCT FROM, BETWEEN, IN and
-- CASE x WHEN, which are therefore not used. Whatever path the writer has, it is not looked at.
-- Locks: none beyond the row's own.
create or replace function streams.complete_item() returns trigger
language plpgsql
as $$
begin
    if ((new.data operator(pg_catalog.->) 'id'::pg_catalog.text) operator(pg_catalog.=) pg_catalog.to_jsonb(new.id))
        is not true
    then
        if pg_catalog.jsonb_typeof(new.data) operator(pg_catalog.<>) 'object'::pg_catalog.text then
            raise check_violation using
                message = pg_catalog.format('data of %I.%I must be a JSON object', tg_table_schema, tg_table_name),
                schema = tg_table_schema, table = tg_table_name, column = 'data';
        end if;
        new.data := new.data operator(pg_catalog.||) pg_catalog.jsonb_build_object('id'::pg_catalog.text, new.id);
    end if;
    if tg_op operator(pg_catalog.=) 'UPDATE'::pg_catalog.text then
        new.created_at := old.created_at;
        if new.data operator(pg_catalog.=) old.data and new.id operator(pg_catalog.=) old.id
            and new.group_id operator(pg_catalog.=) old.group_id
        then
            new.data := old.data;  -- 1.0 for 1 is no change: the table keeps the text that the log has
            new.version := old.version;
            new.updated_at := old.updated_at;
        else
            -- After the last one comes 1 again, or the item could never be written again.
            new.version := (old.version operator(pg_catalog.%) 9223372036854775807) operator(pg_catalog.+) 1;
            new.updated_at := pg_catalog.clock_timestamp();
        end if;
    elsif new.version operator(pg_catalog.<>) 1 then
        if pg_catalog.current_setting('session_replication_role'::pg_catalog.text)
            operator(pg_catalog.<>) 'replica'::pg_catalog.text
        then
            new.version := 1;
        end if;
    end if;
    return new;
end
$$;
