-- Which of these topics (streams $2, groups $3, side by side) transaction $1 wrote to: their places, from 1.
--
-- A lookup for each in the index (xid, stream, group_id). {table} is change or event. Locks: none.
-- Called for a commit that is large (app/store/bulk.py).
select wanted.place
from unnest($2::text[], $3::text[]) with ordinality as wanted (stream, group_id, place)
where exists (
    select from streams.{table} w
    where w.xid = $1::xid8 and w.stream collate "C" = wanted.stream and w.group_id collate "C" = wanted.group_id
    offset 0
)
