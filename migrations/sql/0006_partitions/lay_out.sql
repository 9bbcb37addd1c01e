-- Divide what is empty behind transaction `start`: three partitions of 2^20 transactions, and ever larger ones behind them, to
-- be divided in their turn (make_room.sql). If no server runs, hundreds of millions of transactions have a place of a
-- bounded size; the last one goes to the end of all xids.
--
-- Called by the migration, and by adoption. Locks: as streams.cut_partition's.
create function streams.lay_out(start xid8) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    place numeric;
begin
    foreach place in array array[0, 1, 2, 3, 16, 256, 4096] loop
        perform streams.cut_partition((start::text::numeric + place * 1048576)::text::xid8);
    end loop;
exception when object_in_use then
    null;  -- it has come to the last partition, which stays as it is
end
$$;
