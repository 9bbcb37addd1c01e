-- What a snapshot of group $2 of stream $1 is of; answers one row. The first statement of a repeatable-read
-- transaction, whose second one reads the items (read_items.sql): both see the same.
--
-- The head of the numbered log; and the xids of transactions that changed this group, are visible (so they are
-- in the items already) and have no number yet. Whoever follows the feed from here skips those when their
-- numbers come.
-- Every transaction visible in the head's snapshot has a number; the unnumbered are those visible only since.
--
-- It also has the second statement read the table in the order of its pages rather than of the key, as items were mostly
-- written oldest first; and sort in memory, for which 64 MB are no more than the archive's few connections may take
-- (100,000 chat messages are 20 MB). Together a sixth less time. And it does not wait long for a table that somebody has
-- locked (ALTER TABLE, VACUUM FULL): the archive's few connections are needed for other streams, too. The settings end with
-- the transaction.
-- Locks: none.
with
head as materialized (
    select number, snapshot
    from streams.commit
    order by number desc
    limit 1
),
since as materialized (
    select
        coalesce((select number from head), 0) as number,
        coalesce((select snapshot from head), '1:1:'::pg_snapshot) as snapshot
)
select
    number,
    (select e.epoch from streams.epoch e order by e.began_at desc limit 1) as epoch,
    array(
        select c.xid from streams.change c
        where c.xid >= streams.in_log(pg_snapshot_xmax(since.snapshot))
          and c.xid >= streams.numbered_below() and c.xid < streams.in_log(pg_snapshot_xmax(pg_current_snapshot()))
          and c.stream collate "C" = $1 and c.group_id collate "C" = $2
        union
        select c.xid from streams.change c
        where c.xid = any (array(
                  select streams.in_log(x) from pg_snapshot_xip(since.snapshot) as x
                  where pg_visible_in_snapshot(x, pg_current_snapshot())
              ))
          and c.xid >= streams.numbered_below() and c.xid < streams.in_log(pg_snapshot_xmax(pg_current_snapshot()))
          and c.stream collate "C" = $1 and c.group_id collate "C" = $2
    ) as xids,
    set_config('enable_bitmapscan', 'on', true),
    set_config('work_mem', greatest(pg_size_bytes(current_setting('work_mem')) / 1024, 65536) || 'kB', true),
    set_config('lock_timeout', '1s', true)
from since
