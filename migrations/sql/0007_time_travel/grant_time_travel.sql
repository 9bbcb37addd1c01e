-- Let those who may read a stream's history, and those who may read the log itself, as servers do, read the view of its log
-- that _as_of and _diff are made of. Only where nobody was given or denied anything on that view yet: a right that somebody
-- takes away is not given again. The types go to tidelog_owner, if it owns the schema, as all else does (hand_over.sql).
--
-- Called by migrations after streams.grant_roles. Locks: none on tables.
create or replace function streams.grant_time_travel() returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    statement text;
begin
    for statement in
        select format('grant select on streams.%I to %s', v.relname, case a.grantee when 0 then 'public' else a.grantee::regrole::text end)
        from streams.stream s
        join pg_class v on v.relname = '_' || s.table_name || '_log' and v.relnamespace = 'streams'::regnamespace
        join pg_class readable on readable.relnamespace = v.relnamespace
            and readable.relname in (s.table_name || '_history', 'change')
        cross join lateral aclexplode(readable.relacl) a
        where v.relacl is null and a.privilege_type = 'SELECT' and a.grantee <> v.relowner
        group by v.relname, a.grantee
        order by v.relname, a.grantee
    loop
        execute statement;
    end loop;
    for statement in
        select format('alter type %s owner to tidelog_owner', t.oid::regtype)
        from pg_type t
        join pg_namespace n on n.oid = t.typnamespace
        join pg_roles r on r.oid = t.typowner
        where t.oid in ('streams._as_of_row'::regtype, 'streams._diff_row'::regtype)
          and n.nspowner = to_regrole('tidelog_owner') and t.typowner <> n.nspowner
          and (r.rolsuper or r.rolname = current_user)
    loop
        begin
            execute statement;
        exception when insufficient_privilege then null;  -- a member that may not act as the role
        end;
    end loop;
end
$$;
