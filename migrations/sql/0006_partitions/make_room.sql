-- See to it that the next partitions are of the right size: at least three of them, of `width` transactions each, lie ahead
-- of the xid that is now given out. Answers how many were made.
--
-- Behind those that are ready come ever larger ones, to the end of all xids, which are empty and are divided when their turn
-- comes. If nobody does that (no server runs, a transaction of hours keeps the lock from us), what is written goes to a
-- larger one; a partition that is in use is never divided.
--
-- It runs with its owner's rights, as who serves owns nothing; what it can do is harmless.
-- Called by the housekeeper. Locks: ACCESS EXCLUSIVE on streams.change, which is waited for 50 ms at most (raises
-- lock_not_available), and not at all while somebody has held the table for longer than that, so that nobody waits behind us.
create function streams.make_room(width bigint) returns integer
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '50ms'
as $$
declare
    made integer := 0;
    ahead integer := 0;
    next record;
begin
    if width < 1 or width > 4294967296 then
        raise invalid_parameter_value using message = format('a partition has 1 to 2^32 transactions, not %s', width);
    end if;
    for next in
        select p.low, p.high, p.high::text::numeric - p.low::text::numeric > 2 * width as is_large
        from streams.partitions() p
        where p.low > streams.transaction_id()
        order by p.low
    loop
        if next.is_large then
            exit when next.low >= '9223372036854775808'::xid8;
            perform streams.check_free();
            while ahead < 3 loop
                perform streams.cut_partition((next.low::text::numeric + width * (made + 1))::text::xid8);
                ahead := ahead + 1;
                made := made + 1;
            end loop;
        end if;
        ahead := ahead + 1;
        exit when ahead >= 3;
    end loop;
    return made;
end
$$;
