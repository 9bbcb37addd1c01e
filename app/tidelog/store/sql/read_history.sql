-- Changes of group $1 of a stream, and of its item $2 unless that is null, in the order of the feed: those of the commits from
-- $3 to $4, after position $5 and its seq $6 (null: all), $7 at most.
-- The group's keys are looked up before they are put in order: planned as one, a limit would have the planner walk over the
-- commits of everybody, in the hope to find the group's soon. What was erased is in the log's table alone. Locks: none.
with
keys as materialized (
    select c.xid, c.seq, c.position, c.at
    from streams._{table}_log c
    where c.group_id = $1 and ($2::text is null or c.id = $2)
      and c.position between $3::bigint and $4::bigint
      and ($5::bigint is null or (c.position, c.seq) > ($5, $6::bigint))
    order by c.position, c.seq
    limit $7
)
select k.position, k.at, k.seq, k.xid, c.*
from keys k
cross join lateral (
    select c.op, c.id, c.version, c.data, c.erased_at is not null as is_erased
    from streams.change c where c.xid = k.xid and c.seq = k.seq
    limit 1  -- a lookup for each, whatever the planner expects: there is one, by the primary key
) c
order by k.position, k.seq
