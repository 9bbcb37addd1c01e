-- The next commits with something for a durable consumer, in the order of the feed: at most $5.
--
-- $1 position; $2 streams, $3 groups (text[], null: all); $4 how many commits to look at; $6
-- the lowest xid that they may have (xid_range.sql). Answers at least one row:
-- head, floor (the oldest position from which these streams can be gone on with; $1, if an older one could be) and epoch
-- (null before any server ran) are on every row; number and at are null if nothing matches.
--
-- All is one statement, so one snapshot: what retention removes meanwhile is either still here, or the
-- floor tells that it is gone; and no commit after the head is passed over. LIMIT keeps each lookup a lookup: the
-- planner may not turn it into a scan of the log. Whether a commit of over 100 rows has any of the groups is looked up first,
-- so that a million rows of others cost nothing (why the xid is a range, is in touched_of_topics.sql). By streams alone it
-- can't be looked up: there a commit's rows are read until one matches, a million in a sixth of a second.
-- Locks: none that a writer could wait for. Called by app/tidelog/store/consumers.py.
with
present as materialized (
    select
        coalesce((select max(number) from streams.commit), 0) as head,
        greatest(
            -- The log's floor takes twenty lookups (floor.sql): where it is below $1, one says so.
            case
                when exists (select from streams.commit here where here.number between $1 and $1 + 1) then $1
                else ({floor})
            end,
            (select max(f.number) from streams.stream_floor f where $2::text[] is null or f.stream = any ($2)),
            0
        ) as floor,
        (select e.epoch from streams.epoch e order by e.began_at desc limit 1) as epoch
),
matching as materialized (
    select n.number, n.at
    from streams.commit n
    cross join lateral (
        select from streams.change c
        where c.xid = n.xid and c.xid >= $6::xid8
          and ($2::text[] is null or c.stream = any ($2))
          and ($3::text[] is null or c.group_id = any ($3))
          and case
              when $3::text[] is null then true
              when not exists (
                  select from streams.change t
                  where t.xid = n.xid and t.xid >= $6::xid8 offset 100
              ) then true
              else exists (
                  select
                  from unnest(coalesce($2, array(select known.name from streams.stream known))) as s (stream)
                  cross join unnest($3) as g (group_id)
                  cross join lateral (
                      select
                      from streams.change t
                      where t.stream collate "C" = s.stream and t.group_id collate "C" = g.group_id
                        and t.xid >= n.xid and t.xid <= n.xid and t.xid >= $6::xid8
                      order by t.stream collate "C", t.group_id collate "C", t.xid
                      limit 1
                  ) first
              )
          end
        limit 1
    ) wanted
    where n.number > $1::bigint and n.number <= $1 + $4::bigint
    order by n.number
    limit $5
)
select present.head, present.floor, present.epoch, matching.number, matching.at
from present left join matching on true
order by matching.number
