-- The last commits of batches, which have a snapshot: by their numbers, and by where their snapshots end. One small entry
-- for each batch. From which xid on the commits after a position are, and up to which number the transactions below an xid
-- are told of, is a lookup.
create index commit_batch on streams.commit (number) where snapshot is not null;

create index commit_batch_xmax on streams.commit (streams.snapshot_xmax(xid, snapshot), number) where snapshot is not null;
