-- The history view as it was when the log was one table. Called by the way back only.
create or replace function streams.make_history(stream_name text, stream_table text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    execute format($view$
        create view streams.%1$I as
        select n.number as position, n.at, c.seq, c.op, c.group_id, c.id, c.version, c.data, c.xid
        from streams.change c join streams.commit n on n.xid = c.xid
        where c.stream = %2$L$view$, stream_table || '_history', stream_name);
end
$$;
