-- The next place in the order of writes, for an event: its sender may not use the sequence itself.
-- Called by check_event. Locks: none.
create function streams.next_seq() returns bigint
language plpgsql
security definer
as $$
begin
    return pg_catalog.nextval('streams.write_seq'::pg_catalog.regclass);
end
$$;
