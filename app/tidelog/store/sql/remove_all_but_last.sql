-- Remove, of each item of stream $1 that changed in the next commits, all changes but the last $7 ($2 its rule, $3 to $6:
-- walked_commits.sql). The commits stay, with what they did in other streams. What is after these commits counts as the
-- item's last changes, and is left to later steps.
--
-- An item's version counts its changes: up to the $7th there is nothing to remove. So a stream whose items are mostly
-- created costs nothing here. It counts from 1 again for an item that was deleted and created anew, of which therefore
-- up to twice as many may stay for a while. An item's changes are in the order of seq: each was made under its row's lock.
--
-- The index (stream, group_id, xid) gives a group's rows; those of the items in question are told by a hashed
-- subquery, which CASE keeps the planner from making a join of.
-- Called by the housekeeper. Locks: the rows it deletes, which nobody writes but streams.erase; the stream's floor.
with
{walked_commits},
touched as materialized (
    select distinct c.group_id, c.id
    from old join streams.change c on c.xid = old.xid
    where c.stream collate "C" = $1 and (c.version > $7::bigint or c.op = 'delete')
),
ranked as materialized (
    select c.xid, c.seq, row_number() over (partition by c.group_id, c.id order by c.seq desc) as place
    from (select distinct group_id from touched) as g
    join streams.change c on c.stream collate "C" = $1 and c.group_id collate "C" = g.group_id
    where case when (c.group_id, c.id) in (select t.group_id, t.id from touched t) then true end
),
gone as (
    delete from streams.change c
    using (
        select r.xid, r.seq, n.number
        from ranked r join streams.commit n on n.xid = r.xid
        where r.place > $7::bigint and n.number <= (select max(number) from old)
    ) as past
    where c.xid = past.xid and c.seq = past.seq
    returning past.number
),
{raised_floor}
