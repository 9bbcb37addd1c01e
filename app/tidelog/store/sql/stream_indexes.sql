-- The indexes that were made, or are about to be, for the streams of names $1 (text[]): a row for each. is_there: the table
-- has it; is_valid: it is whole, and used; is_taken: something else has its name.
-- Called by migrations, and at every start that could migrate. Locks: none.
select
    s.name as stream, recorded.name,
    i.indexrelid is not null as is_there,
    coalesce(i.indisvalid and i.indisready, false) as is_valid,
    c.oid is not null and i.indexrelid is null as is_taken
from streams.stream s
cross join lateral jsonb_object_keys(s.indexes) as recorded (name)
left join pg_class c on c.relname = recorded.name and c.relnamespace = 'streams'::regnamespace
left join pg_index i on i.indexrelid = c.oid and i.indrelid = to_regclass(format('streams.%I', s.table_name))
where s.name = any ($1)
order by s.name, recorded.name
