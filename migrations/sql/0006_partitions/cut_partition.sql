-- Divide the partition that transaction `place` would be in: what begins there is a new one. Answers whether it did: not if
-- one begins there already.
--
-- Only an empty one is divided, which takes a moment however large the log is. Raises object_in_use if it isn't empty.
-- Called by streams.make_room and streams.lay_out. Locks: ACCESS EXCLUSIVE on streams.change, until the
-- transaction ends; the caller says for how long it is waited for, and so how long others may wait behind.
create function streams.cut_partition(place xid8) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    cut record;
    is_used boolean;
begin
    lock table streams.change in access exclusive mode;
    select * into cut from streams.partitions() p where p.low <= place and place < p.high;
    if cut.low = place then
        return false;
    end if;
    execute format('select exists (select from %s)', cut.partition) into is_used;
    if is_used then
        raise object_in_use using message = format('%s can''t be divided: it is not empty', cut.partition);
    end if;
    execute format('alter table streams.change detach partition %s', cut.partition);
    execute format('alter table streams.change attach partition %s for values from (%L) to (%L)',
        cut.partition, cut.low, place);
    perform streams.make_partition(place, cut.high);
    return true;
end
$$;
