-- Give tidelog_server its rights to the queue, once: when it may use the schema, and has none to streams.step_stream, which is
-- the last of its tables.
-- Called by migrations/env.py at the end of every migration, after streams.grant_roles. Locks: none that a writer waits for.
create or replace function streams.grant_jobs() returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if to_regrole('tidelog_server') is null or not streams.has_rights('tidelog_server') or exists (
        select from pg_class c, aclexplode(c.relacl) a
        where c.oid = to_regclass('streams.step_stream') and a.grantee = to_regrole('tidelog_server')
    ) then
        return;
    end if;
    grant select, insert, update, delete on streams.step_job, streams.step_parked, streams.step_cron, streams.step_stream to tidelog_server;
    grant select, update on streams.step_turn to tidelog_server;
    grant select, insert, update, delete on streams.consumer to tidelog_server;  -- stream steps are one
end
$$;
