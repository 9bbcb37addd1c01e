-- Which of these topics (streams $2, groups $3, side by side) transaction $1 wrote to: their places, from 1.
--
-- A lookup for each in the index (stream, group_id, xid). The xid is asked for as a range, though it is one: by
-- `xid = $1` the planner takes the key for as good, as most transactions have few rows, and would then read all rows of
-- this one for each topic. Of a range it expects more, and the index has both ends of it.
-- {table} is change or event. Locks: none. Called for a commit that is large (app/tidelog/store/bulk.py).
select wanted.place
from unnest($2::text[], $3::text[]) with ordinality as wanted (stream, group_id, place)
cross join lateral (
    select
    from streams.{table} w
    where w.stream collate "C" = wanted.stream and w.group_id collate "C" = wanted.group_id
      and w.xid >= $1::xid8 and w.xid <= $1::xid8
    order by w.stream collate "C", w.group_id collate "C", w.xid
    limit 1
) w
