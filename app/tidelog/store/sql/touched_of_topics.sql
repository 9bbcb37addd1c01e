-- Which of these topics (streams $2, groups $3, side by side) transaction $1 wrote to: their places, from 1.
--
-- A lookup for each in the index (stream, xid, group_id); why it is put so, is in touched_groups.sql.
-- {table} is change or event. Locks: none. Called for a commit that is large (app/tidelog/store/bulk.py).
select wanted.place
from unnest($2::text[], $3::text[]) with ordinality as wanted (stream, group_id, place)
cross join lateral (
    select following.stream, following.xid, following.group_id
    from streams.{table} following
    where (following.stream collate "C", following.xid, following.group_id collate "C")
        >= (wanted.stream, $1::xid8, wanted.group_id)
      and following.xid >= $1::xid8 and following.xid <= $1::xid8
    order by following.stream collate "C", following.xid, following.group_id collate "C"
    limit 1
) w
where w.stream = wanted.stream and w.xid = $1::xid8 and w.group_id = wanted.group_id
