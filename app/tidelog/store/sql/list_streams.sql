-- The streams of the database: name, table, whether the table is there, and about how many items it has (null: nobody has
-- counted yet). Called by `tidelog streams`. Locks: none.
select
    s.name, s.table_name, c.oid is not null as is_there,
    case when c.reltuples >= 0 then c.reltuples::bigint end as items
from streams.stream s
left join pg_class c on c.oid = to_regclass(format('streams.%I', s.table_name))
order by s.name
