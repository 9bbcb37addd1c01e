-- Make an empty partition of the log for the transactions from `low` on, below `high`.
--
-- The table is made first and then attached: that takes no lock that a writer waits for. ("~" is in no stream's table.)
-- Called by streams.cut_partition, streams.drop_partitions and the migration. Locks: SHARE UPDATE EXCLUSIVE on streams.change.
create function streams.make_partition(low xid8, high xid8) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    name constant text := 'change~' || low;
begin
    execute format('create table streams.%I (like streams.change including defaults including storage)', name);
    execute format('alter table streams.%I owner to %I', name,
        (select r.rolname from pg_class c join pg_roles r on r.oid = c.relowner where c.oid = 'streams.change'::regclass));
    execute format('alter table streams.change attach partition streams.%I for values from (%L) to (%s)', name, low,
        case when high = '18446744073709551615'::xid8 then 'maxvalue' else quote_literal(high) end);
end
$$;
