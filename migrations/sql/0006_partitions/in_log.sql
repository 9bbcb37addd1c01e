-- The log's number of a transaction of this cluster in this era; see transaction_id.sql.
-- Called by all that compares the log with a snapshot. Locks: none.
create function streams.in_log(xid xid8) returns xid8
language sql
stable
return xid;
