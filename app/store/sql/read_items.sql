-- The items of group $1, or the one item $2 (null: all), oldest first: each one's id and a text made of it.
-- The table is the stream's, the text an expression over id, version and data.
--
-- The texts are made behind the sort, which has less to carry so: 100,000 items take a tenth less time.
-- Read by a cursor in a snapshot's transaction (snapshot_head.sql). Locks: none.
select id, {text} as text
from (
    select id, version, data
    from streams.{table}
    where group_id = $1 and ($2::text is null or id = $2)
    order by created_at, id
    offset 0
) as item
