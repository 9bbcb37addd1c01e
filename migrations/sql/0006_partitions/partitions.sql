-- The log's partitions, in their order: each holds the transactions from low on, below high (2^64 - 1: to the end).
-- They are next to each other, from 0 to the end of all xids: no write can fail for want of one.
-- Called by what follows, and by the housekeeper. Locks: none.
create function streams.partitions(out partition regclass, out low xid8, out high xid8) returns setof record
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select c.oid::regclass, bounds[1]::xid8, coalesce(nullif(bounds[2], 'MAXVALUE'), '18446744073709551615')::xid8
    from pg_inherits i
    join pg_class c on c.oid = i.inhrelid
    cross join lateral regexp_match(
        pg_get_expr(c.relpartbound, c.oid), $re$FROM \('?(\d+)'?\) TO \('?(\d+|MAXVALUE)'?\)$re$
    ) as bounds
    where i.inhparent = 'streams.change'::regclass
    order by bounds[1]::numeric
$$;
