-- The server's rights to streams.context_state, once, if the role has rights here already: see grant_roles.sql, after which
-- this is called at the end of every migration. Locks: none beyond that of GRANT.
create or replace function streams.grant_state() returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if to_regrole('tidelog_server') is not null and streams.has_rights('tidelog_server')
        and not has_table_privilege('tidelog_server', 'streams.context_state', 'select')
    then
        grant select, insert, update, delete on streams.context_state to tidelog_server;
    end if;
end
$$;
