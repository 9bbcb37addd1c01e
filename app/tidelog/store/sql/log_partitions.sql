-- The log's partitions that have numbered commits: their bounds, and for how long each has been full: how old its last commit
-- is. Null: of the one in use. Two lookups for each. Called by the housekeeper when it removes commits. Locks: none.
select p.low, p.high, case when is_full then clock_timestamp() - last.at end as full_for
from streams.partitions() p
cross join lateral (
    select n.at from streams.commit n where n.xid >= p.low and n.xid < p.high order by n.xid desc limit 1
) last
cross join lateral (
    select exists (select from streams.commit n where n.xid >= p.high) as is_full
) later
order by p.low
