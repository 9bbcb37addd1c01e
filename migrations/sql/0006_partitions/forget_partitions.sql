-- Drop what the partitions were made and used by. Called by the way back only.
drop table streams.change_divided;

-- Constraints NOT NULL have names from Postgres 18 on, and these were taken as long as the other table was there.
do $$
declare
    name text;
begin
    for name in select conname from pg_constraint where conrelid = 'streams.change'::regclass and conname like '%\_null1' loop
        execute format('alter table streams.change rename constraint %I to %I', name, left(name, -1));
    end loop;
end
$$;

drop index streams.commit_batch, streams.commit_batch_xmax;

drop function streams.erase(text, text, text), streams.make_history(text, text), streams.make_room(bigint), streams.drop_partitions(), streams.numbered_below(), streams.was_numbered(xid8, xid8, pg_snapshot),
    streams.check_free(),
    streams.begin_era(xid8), streams.lay_out(xid8), streams.cut_partition(xid8), streams.make_partition(xid8, xid8), streams.partitions(),
    streams.snapshot_xmin(xid8, pg_snapshot), streams.snapshot_xmax(xid8, pg_snapshot), streams.in_log(xid8),
    streams.transaction_id();
