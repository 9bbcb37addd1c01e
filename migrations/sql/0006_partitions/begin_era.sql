-- What is written from now on is of the era whose first transaction is `start`, in the log. The transactions of this cluster
-- that the log has already are of the one before.
--
-- Only the owner of the functions may call it: it is he who replaces them. The caller holds ACCESS EXCLUSIVE on streams.change
-- and streams.event: nobody has written half of something.
-- Called by adoption. Locks: none besides.
create function streams.begin_era(start xid8) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    execute format('create or replace function streams.transaction_id() returns xid8 language sql stable
        return (pg_current_xact_id()::text::bigint + %s)::text::xid8', start);
    execute format('create or replace function streams.in_log(xid xid8) returns xid8 language sql stable
        return (xid::text::bigint + %s)::text::xid8', start);
    perform streams.lay_out(streams.transaction_id());
end
$$;
