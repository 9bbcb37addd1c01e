-- Part of number_commits.sql: the rows of transactions that became visible, at most $4 of each kind. One scan of the
-- key for those that were yet to come, one for those that were in progress: the fastest for the usual few.
-- (In the order of the key, so that it is the key that is asked, not another index, stream by stream.)
--
-- If the snapshot is still that of the last look, there is nothing to find, and looking may be dear: xmax is one more
-- than the last transaction to end, so an open bulk load is "yet to come" until one that began after it has ended.
written as (
    (select xid, seq from {change} c
     where pg_current_snapshot()::text <> $1::text
       and xid >= streams.in_log(pg_snapshot_xmax($1::text::pg_snapshot))
       and xid < streams.in_log(pg_snapshot_xmax(pg_current_snapshot()))
     order by xid, seq limit $4::bigint)
    union all
    (select xid, seq from {change} c
     where xid = any ((select xids from ended)::xid8[])
       and xid >= streams.in_log(pg_snapshot_xmin($1::text::pg_snapshot))
       and xid < streams.in_log(pg_snapshot_xmax($1::text::pg_snapshot))
     limit $4::bigint)
    union all
    (select xid, seq from streams.event
     where pg_current_snapshot()::text <> $1::text
       and xid >= streams.in_log(pg_snapshot_xmax($1::text::pg_snapshot))
       and xid < streams.in_log(pg_snapshot_xmax(pg_current_snapshot()))
     order by xid, seq limit $4::bigint)
    union all
    (select xid, seq from streams.event where xid = any ((select xids from ended)::xid8[]) limit $4::bigint)
),
