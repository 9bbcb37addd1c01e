-- Below which xid every transaction has ended, and has a number if it wrote something: what an open snapshot of the log, and
-- a partition that is to be dropped, go by. 0 if nothing was numbered yet.
-- Locks: none.
create function streams.numbered_below() returns xid8
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select coalesce(
        (
            select streams.snapshot_xmin(n.xid, n.snapshot) from streams.commit n
            where n.snapshot is not null order by n.number desc limit 1
        ),
        '0'
    )
$$;
