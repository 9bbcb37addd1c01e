-- The groups of a stream that have items, in their order: those that begin with $1 and come after $2 (null: all), $3 at most.
-- By one lookup for each group, however many items it has (a loose index scan). {table}, {collation} of its keys; where
-- that is "C" ($4), those with one beginning are beside each other, and the scan ends behind them.
-- It shows what has no number yet, too: read_groups_touched.sql says what to do. Locks: none.
with recursive
found (group_id) as (
    (select t.group_id {collation} from streams.{table} t
     where t.group_id {collation} >= $1::text and ($2::text is null or t.group_id {collation} > $2)
     order by t.group_id {collation} limit 1)
    union all
    select (
        select t.group_id {collation} from streams.{table} t
        where t.group_id {collation} > f.group_id
        order by t.group_id {collation} limit 1
    )
    from found f
    where f.group_id is not null and (not $4::boolean or starts_with(f.group_id, $1))
)
select group_id from found where group_id is not null and starts_with(group_id, $1) limit $3
