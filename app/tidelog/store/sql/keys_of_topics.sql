-- The rows that transaction $1 wrote to these topics (streams $2, groups $3, side by side), $4 of each at most: each row's
-- place among the topics, from 1, and its seq. No data is read.
--
-- $4 entries of the index (stream, group_id, xid) are looked at for each topic; why the xid is a range, is in
-- touched_of_topics.sql. {table} is change or event. Locks: none. Called for a commit that is large (app/tidelog/store/bulk.py).
select wanted.place, w.seq
from unnest($2::text[], $3::text[]) with ordinality as wanted (stream, group_id, place)
cross join lateral (
    select following.seq
    from streams.{table} following
    where following.stream collate "C" = wanted.stream and following.group_id collate "C" = wanted.group_id
      and following.xid >= $1::xid8 and following.xid <= $1::xid8
    order by following.stream collate "C", following.group_id collate "C", following.xid
    limit $4
) w
