-- The next commits with something for a durable consumer, in the order of the feed: at most $5.
--
-- $1 position; $2 streams, $3 groups (text[], null: all); $4 how many commits to look at. Answers at least one row:
-- head, floor (the oldest position that can be gone on from) and epoch (null before any server ran) are on every row;
-- number and at are null if nothing matches.
--
-- All is one statement, so one snapshot: a commit that retention removes meanwhile is either still here, or the
-- floor tells that it is gone; and no commit after the head is passed over. LIMIT keeps each lookup a lookup: the
-- planner may not turn it into a scan of the log. The four lookups are for what is given and what is null: each then finds
-- the index by topics, so that a commit of a million rows of others costs no more than a small one.
-- Locks: none that a writer could wait for. Called by app/store/consumers.py.
with
present as materialized (
    select
        coalesce((select max(number) from streams.commit), 0) as head,
        coalesce((select min(number) - 1 from streams.commit), 0) as floor,
        (select e.epoch from streams.epoch e order by e.began_at desc limit 1) as epoch
),
matching as materialized (
    select n.number, n.at
    from streams.commit n
    cross join lateral (
        select from streams.change c
        where $2::text[] is null and $3::text[] is null and c.xid = n.xid
        union all
        select from streams.change c
        where $3::text[] is null and c.xid = n.xid and c.stream collate "C" = any ($2)
        union all
        select from streams.change c
        where $2::text[] is null and c.xid = n.xid and c.group_id collate "C" = any ($3)
        union all
        select from streams.change c
        where c.xid = n.xid and c.stream collate "C" = any ($2) and c.group_id collate "C" = any ($3)
        limit 1
    ) wanted
    where n.number > $1::bigint and n.number <= $1 + $4::bigint
    order by n.number
    limit $5
)
select present.head, present.floor, present.epoch, matching.number, matching.at
from present left join matching on true
order by matching.number
