-- The other sessions that hold the migrations' advisory lock (1953064044, 3), or wait for it; those that hold it first.
-- Columns: pid (null: a prepared transaction), who it is in words, granted, and is_migrator.
--
-- Anybody can take the lock. A session is a migration's if it says so, by an application name of ours, and if it could be
-- one: its role, or one that it may take on, owns the schema, or may create something in this database.
-- Called by a migration that can't have the lock. Locks: none.
select
    l.pid,
    format('pid %s, role %s, application %L', l.pid, a.usename, a.application_name) as who,
    l.granted,
    coalesce(
        a.application_name like 'tidelog%'
        and exists (
            select from pg_roles r
            where pg_has_role(a.usesysid, r.oid, 'member')
              and (
                  has_database_privilege(r.oid, l.database, 'create')
                  or r.oid = (select n.nspowner from pg_namespace n where n.nspname = 'streams')
              )
        ),
        false
    ) as is_migrator
from pg_locks l
left join pg_stat_activity a on a.pid = l.pid
where l.locktype = 'advisory'
  and l.database = (select d.oid from pg_database d where d.datname = current_database())
  and l.classid = 1953064044 and l.objid = 3 and l.objsubid = 2  -- 2: a key of two numbers
  and l.pid is distinct from pg_backend_pid()
order by l.granted desc, l.waitstart, l.pid
