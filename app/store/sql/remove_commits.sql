-- Remove the oldest commits: whole, with their changes, in one statement. Nobody sees half of one.
--
-- $1 the floor (floor.sql), $2 their least age, $3 how many at most. Answers one row: how many were removed, and
-- the new floor. Never the newest commit, whose snapshot is where numbering goes on; never one that a durable
-- consumer has still to read.
--
-- Called by the housekeeper. Locks: the rows it deletes, which nobody else writes.
with
old as materialized (
    select number, xid
    from streams.commit
    where number > $1::bigint and number <= $1::bigint + $3::bigint
      and at < clock_timestamp() - $2::interval
      and number < (select number from streams.commit order by number desc limit 1)
      and number <= coalesce((select min(position) from streams.consumer), number)
),
changes as (
    delete from streams.change c using old where c.xid = old.xid
),
events as (
    delete from streams.event e using old where e.xid = old.xid
),
removed as (
    delete from streams.commit n using old where n.number = old.number
    returning n.number
)
select count(*) as removed, coalesce(max(number), $1::bigint) as floor from removed
