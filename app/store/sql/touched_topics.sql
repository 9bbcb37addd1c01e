-- The topics that transaction $1 wrote to, in their order, after stream $2 and group $3: $4 of them at most.
--
-- Jumps from topic to topic by the index (xid, stream, group_id), so a million rows in one group cost what one row
-- does. {table} is change or event. Locks: none. Called for a commit that is large (app/store/bulk.py).
with recursive topic (stream, group_id) as (
    (
        select stream, group_id
        from streams.{table}
        where xid = $1::xid8 and (stream collate "C", group_id collate "C") > ($2::text, $3::text)
        order by stream collate "C", group_id collate "C"
        limit 1
    )
    union all
    select next.stream, next.group_id
    from topic
    cross join lateral (
        select w.stream, w.group_id
        from streams.{table} w
        where w.xid = $1::xid8
          and (w.stream collate "C", w.group_id collate "C") > (topic.stream collate "C", topic.group_id collate "C")
        order by w.stream collate "C", w.group_id collate "C"
        limit 1
    ) next
)
select stream, group_id from topic limit $4
