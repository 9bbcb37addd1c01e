-- BEFORE INSERT OR UPDATE on every stream table: what an item gets, whoever writes it.
-- Its data carries its id; its version counts its updates; an update that changes nothing leaves it alone.
-- (What is refused is in record_change.sql, which sees what is stored, and only once: an upsert of an item that is
-- there comes by here twice.)
-- Locks: none beyond the row's own.
create function streams.complete_item() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if new.data -> 'id' is distinct from to_jsonb(new.id) then
        new.data := new.data || jsonb_build_object('id', new.id);  -- what is no object becomes an array, and is refused
    end if;
    if tg_op = 'UPDATE' then
        new.created_at := old.created_at;
        if new.data = old.data and new.id = old.id and new.group_id = old.group_id then
            new.data := old.data;  -- 1.0 for 1 is no change: the table keeps the text that the log has
            new.version := old.version;
            new.updated_at := old.updated_at;
        else
            new.version := old.version + 1;
            new.updated_at := clock_timestamp();
        end if;
    end if;
    return new;
end
$$;
