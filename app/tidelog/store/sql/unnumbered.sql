-- Whether there are visible changes without a number.
--
-- $1 a snapshot up to which everything is numbered (text), $2 the head number when that was found. Answers one
-- row: the head now, and its snapshot; this statement's snapshot; and whether there are changes without a
-- number. This is told only while the head stands at $2: whoever moves it is at work.
--
-- What became visible since $1, by the reasoning of number_commits.sql, has no number as long as the head has
-- not moved. If there is nothing, this statement's snapshot is the next $1, and while it stays the same nothing is
-- looked at: an idle database, and an open bulk load, cost nothing.
--
-- Called by every standby, four times a second, and in every process once a second. Locks: none.
with
head as materialized (
    select number, snapshot from streams.commit order by number desc limit 1
),
ended as materialized (
    select array(
        select streams.in_log(x) from pg_snapshot_xip($1::text::pg_snapshot) as x
        where pg_visible_in_snapshot(x, pg_current_snapshot()) and pg_xact_status(x) is distinct from 'aborted'
    ) as xids
)
select
    coalesce((select number from head), 0) as number,
    coalesce((select snapshot from head), '1:1:'::pg_snapshot)::text as snapshot_of_head,
    pg_current_snapshot()::text as snapshot,
    coalesce((select number from head), 0) = $2::bigint and (
        exists (
            select from streams.change
            where pg_current_snapshot()::text <> $1::text
              and xid >= streams.in_log(pg_snapshot_xmax($1::text::pg_snapshot))
              and xid < streams.in_log(pg_snapshot_xmax(pg_current_snapshot()))
        )
        or exists (
            select from streams.event
            where pg_current_snapshot()::text <> $1::text
              and xid >= streams.in_log(pg_snapshot_xmax($1::text::pg_snapshot))
              and xid < streams.in_log(pg_snapshot_xmax(pg_current_snapshot()))
        )
        or exists (
            select from streams.change
            where xid = any ((select xids from ended)::xid8[])
              and xid >= streams.in_log(pg_snapshot_xmin($1::text::pg_snapshot))
              and xid < streams.in_log(pg_snapshot_xmax($1::text::pg_snapshot))
        )
        or exists (select from streams.event where xid = any ((select xids from ended)::xid8[]))
    ) as has_unnumbered
