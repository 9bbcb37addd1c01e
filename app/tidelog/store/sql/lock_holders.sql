-- The other sessions that hold the advisory lock (1953064044, $1), or wait for it: those that hold it first. Columns: pid
-- (null: a prepared transaction), role, application_name, mode, granted; and what the role, or one that it may take on,
-- may do: may_number (insert into streams.commit), may_migrate (it owns the schema, or may make something here).
--
-- Anybody with a connection can take an advisory lock. A session is one of ours if it says so, by its application name, and
-- if it could be. The name keeps out the owner's psql and steps, the right keeps out strangers. Both are shown to every
-- role; what a session does is not.
--
-- Called by sequencers and standbys, once a second at most unless changes wait, and by a migration that can't have its
-- lock, perhaps before there are any tables. Locks: none.
select
    l.pid,
    coalesce(a.usename, '(none)')::text as role,
    coalesce(a.application_name, '') as application_name,
    l.mode,
    l.granted,
    exists (
        select from pg_roles r
        where has_table_privilege(r.oid, to_regclass('streams.commit'), 'insert')
          and pg_has_role(a.usesysid, r.oid, 'member')
    ) as may_number,
    exists (
        select from pg_roles r
        where pg_has_role(a.usesysid, r.oid, 'member')
          and (
              has_database_privilege(r.oid, l.database, 'create')
              or r.oid = (select n.nspowner from pg_namespace n where n.nspname = 'streams')
          )
    ) as may_migrate
from pg_locks l
left join pg_stat_activity a on a.pid = l.pid
where l.locktype = 'advisory'
  and l.database = (select d.oid from pg_database d where d.datname = current_database())
  and l.classid = 1953064044 and l.objid = $1::int and l.objsubid = 2  -- 2: a key of two numbers
  and l.pid is distinct from pg_backend_pid()
order by l.granted desc, l.waitstart, l.pid
