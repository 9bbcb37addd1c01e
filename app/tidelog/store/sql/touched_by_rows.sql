-- The topics that transaction $1 wrote to, if that is $2 rows at most; `rows` is how many they are, and more than $2 if more.
--
-- By the key, row by row: where the rows are fewer than the wanted topics, less work than looking these up.
-- {table} is change or event. Locks: none. Called for a commit that is large (app/tidelog/store/bulk.py).
select stream, group_id, sum(count(*)) over () as rows
from (
    select w.stream, w.group_id
    from streams.{table} w
    where w.xid = $1::xid8
    order by w.seq
    limit $2::bigint + 1
) w
group by stream, group_id
