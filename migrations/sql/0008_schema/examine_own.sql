-- What somebody has added to a stream's table that keeps this role from serving it: columns like those of streams.examine.
--
-- A column that must have a value and has no default: steps, which don't know it, can't create items. (A program that does
-- may be all that writes there.) Row-level security that may hide items from this role: a snapshot would lack what the feed
-- has, as the log has every item. It is no trouble for a superuser, a role with BYPASSRLS, a table's owner without FORCE,
-- or where a policy shows all to this role.
--
-- Called at every start, as the role that serves. Locks: none.
create function streams.examine_own(stream_table text)
returns table (severity text, trouble text, remedy text)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    full_name constant text := format('streams.%I', stream_table);
    relation constant oid := to_regclass(full_name);
begin
    return query
    select
        'warn',
        format('steps can''t create items, as the column %I of %s must have a value and has no default', a.attname, full_name),
        format('`alter table %s alter column %I set default ...;`, or `... drop not null;`', full_name, a.attname)
    from pg_attribute a
    join pg_type t on t.oid = a.atttypid
    where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
      and a.attnotnull and not a.atthasdef and a.attidentity = '' and t.typdefault is null
      and a.attname not in ('group_id', 'id', 'data', 'version', 'created_at', 'updated_at');

    if relation is not null and row_security_active(relation) and (
        not exists (
            select from pg_policy p
            where p.polrelid = relation and p.polpermissive and p.polcmd in ('*', 'r')
              and pg_get_expr(p.polqual, p.polrelid) = 'true'
              and (p.polroles = '{0}' or exists (
                  select from unnest(p.polroles) r (role) where r.role = 0 or pg_has_role(r.role, 'usage')))
        )
        or exists (
            select from pg_policy p
            where p.polrelid = relation and not p.polpermissive and p.polcmd in ('*', 'r')
              and (p.polroles = '{0}' or exists (
                  select from unnest(p.polroles) r (role) where r.role = 0 or pg_has_role(r.role, 'usage')))
        )
    ) then
        return query select
            'refuse',
            format('row-level security of %s may hide items from the role %s, and what subscribers begin with would lack '
                   'what the feed has', full_name, current_user),
            format('`create policy tidelog on %s to %I using (true) with check (true);`, and make no restrictive policy '
                   'for that role. Rules for subscribers are canAccess', full_name, current_user);
    end if;
end
$$;
