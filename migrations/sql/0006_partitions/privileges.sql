-- Only who serves may have partitions made and dropped; the others need not know of them. (A role that comes later gets this
-- right with the others: grant_roles.sql.)
revoke execute on function streams.erase(text, text, text), streams.make_room(bigint), streams.drop_partitions(), streams.make_partition(xid8, xid8),
    streams.cut_partition(xid8), streams.lay_out(xid8), streams.begin_era(xid8) from public;

do $$
begin
    if streams.has_rights('tidelog_server') then
        grant execute on function streams.make_room(bigint), streams.drop_partitions() to tidelog_server;
    end if;
end
$$;
