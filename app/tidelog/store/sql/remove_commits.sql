-- Remove the oldest commits: whole, with their changes, in one statement. Nobody sees half of one: changes are read by their
-- commits only. So those whose partition will be dropped soon are left to that.
--
-- $1 the floor (floor.sql), $2 their least age, $3 how many at most; $4 and $5 (xid8[], side by side) from and below which xids
-- changes are left to their partitions; $6 how long a consumer may be away and still be waited for (interval, null: for ever). Answers one row: how many were removed, and
-- the new floor. Never the newest commit, whose snapshot is where numbering goes on; never one that a durable
-- consumer has still to read.
--
-- They go from the lowest, without a gap, and a commit is at least as old as every later one: one that is dated ahead, by a
-- clock that was wrong, goes with the next one that is old enough. (If a whole batch is dated ahead, it stays until its
-- time comes, or until somebody dates it again.)
--
-- Called by the housekeeper. Locks: the rows it deletes, which nobody else writes.
with
batch as materialized (
    select number, xid, at
    from streams.commit
    where number > $1::bigint and number <= $1::bigint + $3::bigint
),
old as materialized (
    select number, xid
    from batch
    where number <= (select max(number) from batch where at < clock_timestamp() - $2::interval)
      and number < (select number from streams.commit order by number desc limit 1)
      and number <= coalesce(
          (
              select min(position) from streams.consumer
              where $6::interval is null or updated_at > clock_timestamp() - $6::interval
          ),
          number
      )
),
changes as (
    delete from streams.change c using old
    where c.xid = old.xid
      and not exists (
          select from unnest($4::xid8[], $5::xid8[]) as left_alone (low, high)
          where old.xid >= left_alone.low and old.xid < left_alone.high
      )
),
events as (
    delete from streams.event e using old where e.xid = old.xid
),
removed as (
    delete from streams.commit n using old where n.number = old.number
    returning n.number
)
select count(*) as removed, coalesce(max(number), $1::bigint) as floor from removed
