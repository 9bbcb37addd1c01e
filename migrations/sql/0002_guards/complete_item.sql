-- BEFORE INSERT OR UPDATE on every stream table: what an item gets, whoever writes it.
-- Its data carries its id; its version counts its updates; an update that changes nothing leaves it alone.
-- (What is refused is in record_change.sql, which sees what is stored, and only once: an upsert of an item that is
-- there comes by here twice.)
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
        -- What is no object becomes an array, and is refused.
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
            new.version := old.version operator(pg_catalog.+) 1;
            new.updated_at := pg_catalog.clock_timestamp();
        end if;
    end if;
    return new;
end
$$;
