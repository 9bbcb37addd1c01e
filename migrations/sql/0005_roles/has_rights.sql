-- Whether a role has itself been given USAGE on the schema, which is what no right in it is of use without.
-- Called by streams.grant_roles. Locks: none.
create or replace function streams.has_rights(role_name text) returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select exists (
        select from pg_namespace n, aclexplode(n.nspacl) a
        where n.nspname = 'streams' and a.privilege_type = 'USAGE' and a.grantee = to_regrole(role_name)
    ) or exists (select from pg_namespace n where n.nspname = 'streams' and n.nspowner = to_regrole(role_name))
$$;
