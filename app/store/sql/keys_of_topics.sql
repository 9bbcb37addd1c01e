-- The rows that transaction $1 wrote to these topics (streams $2, groups $3, side by side), $4 of them at most, in no
-- order: each row's place among the topics, from 1, and its seq. No data is read.
-- Locks: none. Called for a commit that is large (app/store/bulk.py).
select wanted.place, w.seq
from unnest($2::text[], $3::text[]) with ordinality as wanted (stream, group_id, place)
cross join lateral (
    select c.seq
    from streams.change c
    where c.xid = $1::xid8 and c.stream collate "C" = wanted.stream and c.group_id collate "C" = wanted.group_id
    union all
    select e.seq
    from streams.event e
    where e.xid = $1::xid8 and e.stream collate "C" = wanted.stream and e.group_id collate "C" = wanted.group_id
) w
limit $4
