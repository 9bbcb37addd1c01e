-- How many transactions a partition of the log should be for: so that it has about $1 bytes, and is full in $2 (interval;
-- null: however long it takes), by what the present one has so far. Null while it has too little to tell.
--
-- Other databases of the cluster, and transactions that write no stream, use up xids, too: that is in it.
-- Called by the housekeeper. Locks: none.
select least(
    $1::bigint * used / nullif(bytes, 0),
    case when $2::interval is not null and span > interval '10 seconds'
        then used * (extract(epoch from $2::interval) / extract(epoch from span))
    end
)::bigint as width
from (
    select
        streams.transaction_id()::text::numeric - greatest(p.low, first.xid)::text::numeric as used,
        pg_table_size(p.partition) as bytes,
        clock_timestamp() - first.at as span
    from streams.partitions() p
    cross join lateral (
        select n.at, n.xid from streams.commit n where n.xid >= p.low and n.xid < p.high order by n.xid limit 1
    ) first
    where p.low <= streams.transaction_id()
    order by p.low desc
    limit 1
) present
where used > 1000
