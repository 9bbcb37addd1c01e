-- Items of group $1 of a stream, in the order of their ids, as of position $4. $2 only those after this id (null: all), $3 rows
-- at most. {table}, {collation} as in read_items_now.sql; {only} is empty, or narrows it to the item $5. Locks: none.
--
-- Of an item that was erased since, its id is left: looked for is the change that it is told by, where it may be one.
select id, version, case when not is_erased then data end as data, true as is_known, is_erased
from (
    select t.id {collation} as id, t.version, t.data,
        case when t.data = jsonb_build_object('id', t.id) then exists (
            select from streams._{table}_log l join streams.change c on c.xid = l.xid and c.seq = l.seq
            where l.group_id = t.group_id and l.id = t.id and c.erased_at is not null
              and (l.position = t.position or t.position is null and l.position > $4)
        ) else false end as is_erased
    from streams.{table}_as_of($4::bigint) t
    where t.group_id = $1 and ($2::text is null or t.id {collation} > $2) {only}
    order by t.id {collation}
    limit $3
) t
order by id
