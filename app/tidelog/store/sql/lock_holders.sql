-- The sessions that hold the advisory lock (1953064044, $1), or wait for it: those that hold it first. Columns: pid (null: a
-- prepared transaction), role, application_name, mode, granted, and is_sequencer.
--
-- Anybody with a connection can take an advisory lock. A session is a sequencer's (or adoption's) if it says so ($2: the
-- application names), and if it could be one: its role, or one that it may take on, may insert into streams.commit. The
-- name keeps out the owner's psql and steps, the right keeps out strangers. Both are shown to every role; what a
-- session does is not.
--
-- Called by sequencers and standbys, once a second at most unless changes wait. Locks: none.
select
    l.pid,
    coalesce(a.usename, '(none)')::text as role,
    coalesce(a.application_name, '') as application_name,
    l.mode,
    l.granted,
    coalesce(
        a.application_name = any ($2::text[])
        and exists (
            select from pg_roles r
            where has_table_privilege(r.oid, 'streams.commit', 'insert') and pg_has_role(a.usesysid, r.oid, 'member')
        ),
        false
    ) as is_sequencer
from pg_locks l
left join pg_stat_activity a on a.pid = l.pid
where l.locktype = 'advisory'
  and l.database = (select d.oid from pg_database d where d.datname = current_database())
  and l.classid = 1953064044 and l.objid = $1::int and l.objsubid = 2  -- 2: a key of two numbers
  and l.pid is distinct from pg_backend_pid()
order by l.granted desc, l.waitstart, l.pid
