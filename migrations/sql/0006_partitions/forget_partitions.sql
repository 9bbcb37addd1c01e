-- Drop what the partitions were made and used by. Called by the way back only.
drop table streams.change_divided;

drop index streams.commit_batch, streams.commit_batch_xmax;

drop function streams.erase(text, text, text), streams.make_history(text, text), streams.make_room(bigint), streams.drop_partitions(), streams.numbered_below(), streams.check_free(),
    streams.begin_era(xid8), streams.lay_out(xid8), streams.cut_partition(xid8), streams.make_partition(xid8, xid8), streams.partitions(),
    streams.snapshot_xmin(xid8, pg_snapshot), streams.snapshot_xmax(xid8, pg_snapshot), streams.in_log(xid8),
    streams.transaction_id();
