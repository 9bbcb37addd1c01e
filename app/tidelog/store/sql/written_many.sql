-- Part of number_commits.sql: one row, its last write, for each transaction that became visible. Jumps from xid to
-- xid, with two lookups for each: a transaction of a million rows costs what one of a single row does (0.4 ms for
-- the statement, where reading its rows takes 240 and holds up everybody), and many small ones take three times
-- what they do by written_few.sql.
-- (Not max(seq), which may be planned by another index than the key's, and then reads all rows: 3 s for a million.)
later (xid) as (
    select streams.in_log(pg_snapshot_xmax($1::text::pg_snapshot))
    union all
    select (
        select min(following.xid)
        from (
            (select c.xid from {change} c
             where c.xid > later.xid
               and c.xid >= streams.in_log(pg_snapshot_xmax($1::text::pg_snapshot))
               and c.xid < streams.in_log(pg_snapshot_xmax(pg_current_snapshot()))
             order by c.xid limit 1)
            union all
            (select e.xid from streams.event e
             where e.xid > later.xid and e.xid < streams.in_log(pg_snapshot_xmax(pg_current_snapshot()))
             order by e.xid limit 1)
        ) following
    )
    from later
    where later.xid is not null
),
written as (
    select xid, seq
    from (
        select
            x.xid,
            greatest(
                (select c.seq from {change} c
                 where c.xid = x.xid
                   and c.xid >= streams.in_log(pg_snapshot_xmin($1::text::pg_snapshot))
                   and c.xid < streams.in_log(pg_snapshot_xmax(pg_current_snapshot()))
                 order by c.seq desc limit 1),
                (select e.seq from streams.event e where e.xid = x.xid order by e.seq desc limit 1)
            ) as seq
        from (select xid from later union all select unnest(xids) from ended) x
    ) w
    where seq is not null
),
