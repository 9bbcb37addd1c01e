-- The groups of stream $2 that transaction $1 wrote to, in their order, after group $3: $4 of them at most.
--
-- Jumps from group to group by the index (stream, xid, group_id), so a million rows in one group cost what one row does.
-- That index is the only one that a comparison of the three together, and their order, can use: whatever the statistics say,
-- it is never planned by the key, which would read all rows of the transaction. With a limit, since before
-- Postgres 18 such a comparison does not end a scan by its last column.
-- {table} is change or event. Locks: none. Called for a commit that is large (app/tidelog/store/bulk.py).
with recursive touched (stream, xid, group_id) as (
    (
        select stream, xid, group_id
        from streams.{table}
        where (stream collate "C", xid, group_id collate "C") > ($2::text, $1::xid8, $3::text)
          and xid >= $1::xid8 and xid <= $1::xid8
        order by stream collate "C", xid, group_id collate "C"
        limit 1
    )
    union all
    select next.stream, next.xid, next.group_id
    from touched
    cross join lateral (
        select w.stream, w.xid, w.group_id
        from streams.{table} w
        where (w.stream collate "C", w.xid, w.group_id collate "C") > ($2::text, $1::xid8, touched.group_id)
          and w.xid >= $1::xid8 and w.xid <= $1::xid8
        order by w.stream collate "C", w.xid, w.group_id collate "C"
        limit 1
    ) next
    where touched.stream = $2 and touched.xid = $1::xid8
)
select group_id from touched where stream = $2 and xid = $1::xid8 limit $4
