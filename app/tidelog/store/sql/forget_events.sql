-- Remove ephemeral events that every reader has long handed on: numbered more than $1 ago; at most $2 rows.
-- And those of a commit that is dated further ahead than the log may be (number_commits.sql): the clock was wrong then, and
-- is right again, so they were numbered some time ago.
-- Called by the sequencer now and then. Locks: the rows it deletes, which nobody else writes.
delete from streams.event e
where (e.xid, e.seq) in (
    select old.xid, old.seq
    from streams.event old join streams.commit n on n.xid = old.xid
    where n.at < clock_timestamp() - $1::interval or n.at > clock_timestamp() + interval '30 seconds'
    limit $2
)
