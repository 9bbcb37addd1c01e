-- The same groups as they were at the head: $1 what read_groups_now.sql found (text[]) with the transactions $2 (xid8[]), which
-- have no number. Each group that these touched is looked at: it counts if an item was there before them.
-- $3 the beginning, $4 after which, $5 up to which (null: to the end), $6 the head. Locks: none.
with
touched as materialized (
    select distinct c.group_id {collation} as group_id
    from streams._{table}_log c
    where c.xid = any ($2::xid8[]) and starts_with(c.group_id, $3)
      and ($4::text is null or c.group_id {collation} > $4) and ($5::text is null or c.group_id {collation} <= $5)
)
select g.group_id
from (
    select u.group_id {collation} as group_id from unnest($1::text[]) as u (group_id)
    where not exists (select from touched d where d.group_id = u.group_id {collation})
    union all
    select d.group_id from touched d
    where exists (select from streams.{table}_as_of($6::bigint) a where a.group_id = d.group_id collate "C")
) g
order by g.group_id
