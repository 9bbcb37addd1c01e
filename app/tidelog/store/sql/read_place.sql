-- Where the log ends, for a read: the head, the epoch and the stream's floor, and which of the visible transactions with changes of
-- stream $1, and of its group $2 unless that is null, have no number yet (see snapshot_head.sql). Answers one row.
-- The first statement of a repeatable-read transaction whose others read the items. Locks: none.
with
head as materialized (
    select number, snapshot from streams.commit order by number desc limit 1
),
since as materialized (
    select
        coalesce((select number from head), 0) as number,
        coalesce((select snapshot from head), '1:1:'::pg_snapshot) as snapshot
)
select
    number,
    (select e.epoch from streams.epoch e order by e.began_at desc limit 1) as epoch,
    streams.floor($1) as floor,
    array(
        select c.xid from streams.change c
        where c.xid >= streams.in_log(pg_snapshot_xmax(since.snapshot))
          and c.xid >= streams.numbered_below() and c.xid < streams.in_log(pg_snapshot_xmax(pg_current_snapshot()))
          and c.stream collate "C" = $1 and ($2::text is null or c.group_id collate "C" = $2)
        union
        select c.xid from streams.change c
        where c.xid = any (array(
                  select streams.in_log(x) from pg_snapshot_xip(since.snapshot) as x
                  where pg_visible_in_snapshot(x, pg_current_snapshot())
              ))
          and c.xid >= streams.numbered_below() and c.xid < streams.in_log(pg_snapshot_xmax(pg_current_snapshot()))
          and c.stream collate "C" = $1 and ($2::text is null or c.group_id collate "C" = $2)
    ) as unnumbered
from since
