-- Make four group roles that nobody can log in as, and give each its rights in this database. Answers what could not be
-- done, and why, a line for each; null if all is as it should be. Rights that somebody has taken away are not given again.
--
--   tidelog_owner    owns the schema and what is in it: its members migrate
--   tidelog_server   what a server needs, and owns nothing: its members serve
--   tidelog_writer   reads and writes items, and sends events; can't read the log
--   tidelog_reader   reads items and history
--
-- Roles belong to the whole cluster, rights to one database. A role gets rights here only if whoever migrates may choose
-- its members, and no other role but superusers, or if it had some here before: otherwise the owner of another database,
-- who made the roles, could let people into this one. A role of one of these names that can log in, or is a superuser, is somebody's own, and gets nothing.
--
-- What a superuser owns in the schema becomes tidelog_owner's. So the functions that run with their owner's rights
-- (record_change) don't run with a superuser's; a superuser may do everything as before. What another role owns stays
-- its own, as it may serve by that.
--
-- A role gets all its rights once: when it has no USAGE on the schema. On a stream's table that comes later it gets them
-- when none of the roles has any. A restore without the roles is mended by the next migration.
--
-- Called by migrations/env.py at the end of every migration, and by hand.
-- Locks: ACCESS EXCLUSIVE, to the end of the transaction, on what is not yet tidelog_owner's: on all of it or on nothing,
-- for which others are waited some seconds. A role that another database's migration is making: until that ends.
create or replace function streams.grant_roles() returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    lacks text[] := '{}';
    trusted text[] := '{}';   -- those that may have rights here
    new text[] := '{}';       -- those of them that had none
    role_name text;
    is_group boolean;
    others text;              -- who else chooses a role's members, and is no superuser
    trouble text;
    relation record;
begin
    foreach role_name in array array['tidelog_owner', 'tidelog_server', 'tidelog_writer', 'tidelog_reader'] loop
        if to_regrole(role_name) is null then
            begin
                execute format('create role %I nologin', role_name);
            exception
                when duplicate_object or unique_violation then null;  -- another database's migration has just made it
                when insufficient_privilege then
                    lacks := lacks || format('there is no role %s, and %s may not make it', role_name, current_user);
                    continue;
            end;
        end if;
        select not (r.rolcanlogin or r.rolsuper) into is_group from pg_roles r where r.rolname = role_name;
        select string_agg(r.rolname, ', ' order by r.rolname) into others
        from pg_auth_members m join pg_roles r on r.oid = m.member
        where m.roleid = to_regrole(role_name) and m.admin_option and not r.rolsuper and r.rolname <> current_user;
        if not is_group then
            lacks := lacks || format('the role %s can log in or is a superuser: it is left as it is', role_name);
        elsif streams.has_rights(role_name) then
            trusted := trusted || role_name;
        elsif others is not null then
            lacks := lacks || format(
                'the role %1$s gets no rights here, as its members are also chosen by %2$s: grant them by hand, or '
                '`revoke admin option for %1$s from %2$s`', role_name, others
            );
        elsif pg_has_role(current_user, role_name, 'MEMBER WITH ADMIN OPTION')
            -- Up to Postgres 15 who may make roles chooses the members of all.
            or (current_setting('server_version_num')::integer < 160000
                and (select r.rolcreaterole from pg_roles r where r.rolname = current_user))
        then
            trusted := trusted || role_name;
        else
            lacks := lacks || format(
                'the role %1$s gets no rights here, as %2$s may not choose its members: `grant %1$s to %2$s with admin option`',
                role_name, current_user
            );
        end if;
    end loop;

    if 'tidelog_owner' = any (trusted) then
        trouble := streams.hand_over();
        if trouble is not null then
            lacks := lacks || trouble;
        end if;
    end if;

    -- A dump was restored without its rights: what everybody has is in 0001_core/privileges.sql and
    -- 0002_guards/event_rights.sql.
    if has_function_privilege('public', 'streams.record_change()', 'execute') then
        revoke execute on function streams.record_change() from public;
        grant insert (seq, stream, group_id, id, type, data) on streams.event to public;
        grant select (name, table_name) on streams.stream to public;
    end if;
    foreach role_name in array trusted loop
        continue when role_name = 'tidelog_owner' or streams.has_rights(role_name);
        new := new || role_name;
        execute format('grant usage on schema streams to %I', role_name);
        if role_name = 'tidelog_server' then
            grant select, insert, delete on streams.commit to tidelog_server;
            grant select, delete on streams.change, streams.event to tidelog_server;
            grant select, insert on streams.epoch to tidelog_server;
            grant select, insert, update on streams.stream_floor to tidelog_server;
            grant select on streams.consumer, streams.stream, streams.alembic_version to tidelog_server;
            grant execute on function streams.make_room(bigint), streams.drop_partitions() to tidelog_server;
        else
            execute format('grant select on streams.stream to %I', role_name);
        end if;
    end loop;

    for relation in
        select s.table_name, h.oid is not null as has_history, not exists (
            select from aclexplode(c.relacl) a
            join pg_roles r on r.oid = a.grantee
            where r.rolname in ('tidelog_server', 'tidelog_writer', 'tidelog_reader')
        ) as is_new
        from streams.stream s
        join pg_class c on c.relname = s.table_name and c.relnamespace = 'streams'::regnamespace
        left join pg_class h on h.relname = s.table_name || '_history' and h.relnamespace = c.relnamespace
        order by s.table_name
    loop
        foreach role_name in array trusted loop
            continue when role_name = 'tidelog_owner' or not (relation.is_new or role_name = any (new));
            execute format(
                'grant %s on streams.%I to %I',
                case role_name when 'tidelog_reader' then 'select' else 'select, insert, update, delete' end,
                relation.table_name, role_name
            );
            if role_name = 'tidelog_reader' and relation.has_history then
                execute format('grant select on streams.%I to tidelog_reader', relation.table_name || '_history');
            end if;
        end loop;
    end loop;
    return nullif(array_to_string(lacks, E'\n'), '');
end
$$;
