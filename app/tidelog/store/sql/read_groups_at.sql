-- The groups of a stream that had items at position $4, in their order: those that begin with $1 and come after $2 (null: all),
-- $3 at most. It reads the log of the whole stream. Locks: none.
select distinct t.group_id {collation} as group_id
from streams.{table}_as_of($4::bigint) t
where starts_with(t.group_id, $1) and ($2::text is null or t.group_id {collation} > $2)
order by 1
limit $3
