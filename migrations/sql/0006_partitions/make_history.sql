-- Make the history view of a stream, or make it anew. Raises 42P07 if its name is another view's.
--
-- The step, the trace id and the user that a change was made by are what the step told its transaction
-- (tidelog.origin, divided by the ASCII unit separator). Whoever writes in SQL may tell it anything; by_role, the role that
-- logged in, is Postgres's own word.
--
-- Called by streams.declare, and by the migration. Locks: ACCESS EXCLUSIVE on the view.
create function streams.make_history(stream_name text, stream_table text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    execute format($view$
        create or replace view streams.%1$I as
        select
            n.number as position, n.at, c.seq, c.op, c.group_id, c.id, c.version, c.data, c.xid,
            nullif(split_part(c.origin, E'\x1f', 1), '') as by_step,
            nullif(split_part(c.origin, E'\x1f', 2), '') as trace_id,
            nullif(split_part(c.origin, E'\x1f', 3), '') as by_user,
            c.by_role,
            c.erased_at is not null as erased
        from streams.change c join streams.commit n on n.xid = c.xid
        where c.stream = %2$L$view$, stream_table || '_history', stream_name);
exception when invalid_table_definition then
    raise exception using
        errcode = '42P07',
        message = format('stream %s needs the name streams.%I, which is taken by another view',
            stream_name, stream_table || '_history'),
        hint = format('rename it: `alter view streams.%I rename to %I;`',
            stream_table || '_history', stream_table || '_other');
end
$$;
