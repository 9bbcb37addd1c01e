-- Make tidelog_owner the owner of the schema, if a superuser owns it, and of what a superuser, or whoever migrates, has
-- made in a schema that is tidelog_owner's. Answers why not, if it could not be done now; the next migration tries again.
--
-- Called by streams.grant_roles. Locks: ACCESS EXCLUSIVE on the tables and views that change hands, to the end of the
-- transaction: all or none, for which others are waited half of deadlock_timeout, 500 ms at most, again and again for 5 s.
-- It is not worth more, and meanwhile nobody who comes waits longer than that. (Views are not locked beforehand, as that
-- would lock what they read.)
create or replace function streams.hand_over() returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    is_superuser constant boolean := (select r.rolsuper from pg_roles r where r.rolname = current_user);
    tries_left integer := 7;
    usual_timeout constant text := current_setting('lock_timeout');
    former_owners oid[];
    wanted text;
    statement text;
begin
    if not (
        select n.nspowner = to_regrole('tidelog_owner') or (is_superuser and r.rolsuper)
        from pg_namespace n join pg_roles r on r.oid = n.nspowner
        where n.nspname = 'streams'
    ) then
        return null;  -- it is somebody's own
    end if;
    select array_agg(r.oid) into former_owners from pg_roles r
    where case when is_superuser then r.rolsuper else r.rolname = current_user end;

    select string_agg(c.oid::regclass::text, ', ' order by c.oid) into wanted
    from pg_class c
    where c.relnamespace = 'streams'::regnamespace and c.relkind in ('r', 'p') and c.relowner = any (former_owners);
    perform set_config(
        'lock_timeout',
        (select least(500, greatest(1, s.setting::integer / 2)) || 'ms' from pg_settings s where s.name = 'deadlock_timeout'),
        true
    );
    loop
        begin
            if wanted is not null then
                execute format('lock table %s in access exclusive mode', wanted);
            end if;
            for statement in
                select format('alter schema streams owner to tidelog_owner')
                from pg_namespace n where n.nspname = 'streams' and n.nspowner = any (former_owners)
                union all
                -- What belongs to a column goes with it, and an index with its table.
                select format(
                    'alter %s %s owner to tidelog_owner',
                    case c.relkind when 'v' then 'view' when 'S' then 'sequence' else 'table' end, c.oid::regclass
                )
                from pg_class c
                where c.relnamespace = 'streams'::regnamespace and c.relkind in ('r', 'p', 'v', 'S')
                  and c.relowner = any (former_owners)
                  and not exists (
                      select from pg_depend d
                      where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype in ('a', 'i')
                        and d.refclassid = 'pg_class'::regclass and c.relkind = 'S'
                  )
                union all
                select format('alter routine %s owner to tidelog_owner', p.oid::regprocedure)
                from pg_proc p
                where p.pronamespace = 'streams'::regnamespace and p.proowner = any (former_owners)
            loop
                execute statement;
            end loop;
            exit;
        exception when lock_not_available or deadlock_detected then
            tries_left := tries_left - 1;
            if tries_left = 0 then
                perform set_config('lock_timeout', usual_timeout, true);
                return 'not all of the schema streams is tidelog_owner''s yet, as transactions that use it did not end: '
                    'migrate again';
            end if;
            perform pg_sleep(0.25);
        when insufficient_privilege then  -- a member that may not act as the role
            perform set_config('lock_timeout', usual_timeout, true);
            return format('not all of the schema streams is tidelog_owner''s: %s', sqlerrm);
        end;
    end loop;
    perform set_config('lock_timeout', usual_timeout, true);
    return null;
end
$$;
