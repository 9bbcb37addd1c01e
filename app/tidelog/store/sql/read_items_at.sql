-- Items of group $1 of a stream, in the order of their ids, as of position $4. $2 only those after this id (null: all), $3 rows
-- at most. {table}, {collation} as in read_items_now.sql; {only} is empty, or narrows it to the item $5. Locks: none.
select t.id {collation} as id, t.version, t.data, true as is_known
from streams.{table}_as_of($4::bigint) t
where t.group_id = $1 and ($2::text is null or t.id {collation} > $2) {only}
order by t.id {collation}
limit $3
