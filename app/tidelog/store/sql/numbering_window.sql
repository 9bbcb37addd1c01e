-- The transactions between which the next numberings ask for changes: from the beginning of the partition that has the first
-- one that snapshot $1 (text) doesn't show, to the end of the one behind where the log is now. One row.
-- Called once in a partition (app/tidelog/store/window.py). Locks: none.
select
    coalesce(
        (select max(p.low::text::numeric) from streams.partitions() p
         where p.low <= streams.in_log(pg_snapshot_xmin($1::text::pg_snapshot))),
        0
    ) as low,
    (
        select max(ahead.high)
        from (
            select p.high::text::numeric as high
            from streams.partitions() p
            where p.high > streams.in_log(pg_snapshot_xmax(pg_current_snapshot()))
            order by p.low limit 2
        ) ahead
    ) as high
