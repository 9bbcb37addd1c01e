-- The sessions that may keep Postgres's NOTIFY queue from being emptied, the oldest first, $1 at most, in words. It is one
-- queue for all databases; nothing is removed that a listening session has still to take, and one takes nothing in an open
-- transaction, nor while its client reads nothing. Who listens is not shown to others, so these are all that fit.
-- (Of roles whose sessions this one may not see, there is only that they have a transaction open.)
-- Called when the queue begins to fill. Locks: none.
select format(
    'pid %s, role %s, application %L, database %s, %s since %s',
    pid, usename, application_name, datname, coalesce(state, 'unknown'), coalesce(xact_start, state_change, backend_start)
)
from pg_stat_activity
where backend_type = 'client backend' and pid <> pg_backend_pid()
  and (
        state like 'idle in transaction%'
        or clock_timestamp() - xact_start > interval '1 second'
        or (wait_event = 'ClientWrite' and state = 'idle')
        or (state is null and (backend_xid is not null or backend_xmin is not null))
    )
order by coalesce(xact_start, state_change, backend_start) nulls last
limit $1
