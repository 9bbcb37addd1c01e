-- The items of group $1, oldest first: the wanted columns of the stream's table. {only} is empty, or narrows it to the
-- item $2.
--
-- Data is sent as jsonb: as a text it would be copied twice more, and the texts are what all of it costs.
-- Read by a cursor in a snapshot's transaction (snapshot_head.sql). Locks: none.
select {columns}
from streams.{table}
where group_id = $1 {only}
order by created_at, id
