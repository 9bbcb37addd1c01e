-- The log's partitions that have numbered commits: their bounds, and how long it took to fill them, so far.
-- Two lookups for each. Called by the housekeeper when it removes commits. Locks: none.
select p.low, p.high, coalesce(later.at, clock_timestamp()) - first.at as filled_in
from streams.partitions() p
cross join lateral (
    select n.at from streams.commit n where n.xid >= p.low and n.xid < p.high order by n.xid limit 1
) first
left join lateral (
    -- of one that is in use there is none
    select n.at from streams.commit n where n.xid >= p.high order by n.xid limit 1
) later on true
order by p.low
