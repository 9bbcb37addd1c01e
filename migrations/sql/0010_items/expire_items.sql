-- Delete items whose time to live is over, the oldest first: at most so many, of all streams, in this transaction. Answers
-- how many. They are in the log and in the feed like any that is deleted.
--
-- An item that somebody has locked is left for the next time: whoever has it may give it more time.
-- It runs with its caller's rights, and leaves out the tables that the caller may not change.
-- Called by the process that numbers, every second (app/tidelog/numbering/expiry.py).
-- Locks: the rows that it deletes, and the doorbell's.
create or replace function streams.expire_items(rows_max bigint) returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    relation regclass;
    gone bigint;
    total bigint := 0;
begin
    for relation in
        select c.oid::regclass
        from streams.stream s
        join pg_class c on c.relname = s.table_name and c.relnamespace = 'streams'::regnamespace
        join pg_attribute a on a.attrelid = c.oid and a.attname = 'expires_at' and not a.attisdropped
        where col_description(c.oid, a.attnum) = 'When Tidelog deletes the item; null: never'
          and has_table_privilege(c.oid, 'select') and has_table_privilege(c.oid, 'update')
          and has_table_privilege(c.oid, 'delete') and c.relkind in ('r', 'p')
        order by s.table_name
    loop
        execute format(
            'delete from %1$s item using (
                 select group_id, id from %1$s where expires_at <= clock_timestamp() order by expires_at limit $1
                 for update skip locked
             ) expired where item.group_id = expired.group_id and item.id = expired.id', relation
        ) using rows_max - total;
        get diagnostics gone = row_count;
        total := total + gone;
        exit when total >= rows_max;
    end loop;
    return total;
end
$$;
