-- Remove the changes of stream $1 in the next commits, if these are old enough ($2 its rule, $3 to $6: walked_commits.sql).
-- The commits stay, with what they did in other streams.
--
-- Each commit is a lookup by its key, so it costs the same whatever else is in the log.
-- Called by the housekeeper. Locks: the rows it deletes, which nobody writes but streams.erase; the stream's floor.
with
{walked_commits},
gone as (
    delete from streams.change c using old
    where c.xid = old.xid and c.stream collate "C" = $1
    returning old.number
),
{raised_floor}
