-- Drop the oldest partitions of the log, as far as all their transactions have ended, were numbered, and their commits were
-- removed since: nobody can read what is in them any more. Answers how many were dropped.
--
-- The lowest one stays, empty, and begins at 0: a server into which a dump of this database is restored may give out xids
-- that are lower than any here, and its writes must have a place.
--
-- It runs with its owner's rights, as who serves owns nothing; it drops only what nobody can read.
-- Called by the housekeeper. Locks: as streams.make_room's.
create function streams.drop_partitions() returns integer
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '50ms'
as $$
declare
    numbered constant xid8 := streams.numbered_below();
    removed constant bigint := streams.floor();
    kept_from xid8;  -- no commit that is kept has a lower one
    above xid8;  -- where the first one begins that is kept
    is_full boolean;
    dropped regclass[] := '{}';
    one record;
begin
    -- By the numbers, as the removed ones are all below one of them. Those of a partition, looked for by their xids, may be a
    -- million dead entries of an index. After the first batch that is kept to its end, no xid is below its snapshot's xmin.
    -- (That is low where a long transaction was open in any database of the cluster: then it is looked for all the same.)
    select least(
        streams.snapshot_xmin(batch.xid, batch.snapshot),
        (select min(n.xid) from streams.commit n where n.number > removed and n.number <= batch.number)
    ) into kept_from
    from (
        select n.number, n.xid, n.snapshot from streams.commit n
        where n.number > removed and n.snapshot is not null order by n.number limit 1
    ) batch;
    for one in select * from streams.partitions() p order by p.low loop
        exit when one.high > numbered or (
            (kept_from is null or one.high > kept_from)
            and exists (select from streams.commit n where n.xid >= one.low and n.xid < one.high)
        );
        dropped := dropped || one.partition;
        above := one.high;
    end loop;
    execute format('select exists (select from %s)', (select p.partition from streams.partitions() p limit 1)) into is_full;
    if cardinality(dropped) = 0 or (cardinality(dropped) = 1 and not is_full) then
        return 0;
    end if;
    perform streams.check_free();
    lock table streams.change in access exclusive mode;
    for one in select unnest(dropped) as partition loop
        execute format('alter table streams.change detach partition %s', one.partition);
        execute format('drop table %s', one.partition);
    end loop;
    perform streams.make_partition('0', above);
    return cardinality(dropped);
end
$$;
