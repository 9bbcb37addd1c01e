-- What this role may not do, of all that serving takes: a row for each statement that would grant it, and whether a
-- server can be useful without. $1 the streams' tables (text[]); those that aren't there are left out, as is the core.
--
-- The triggers write the log with their owner's rights: the role needs none to insert there. The README has the same list
-- ("The database"), and a test compares the two.
--
-- Called at every start. Locks: none.
with
needed (relation, privileges, is_vital) as (
    values
        ('commit', array['select', 'insert', 'delete'], true),  -- the sequencer numbers, retention deletes
        ('change', array['select', 'delete'], true),
        ('event', array['select', 'delete'], true),
        ('epoch', array['select', 'insert'], true),
        ('stream_floor', array['select', 'insert', 'update'], true),  -- a stream's retention raises its floor
        ('consumer', array['select'], true),                     -- retention keeps what they have still to read
        ('stream', array['select'], true),
        ('alembic_version', array['select'], true)
    union all
    select relation, array['select'], true
    from unnest($1::text[]) as name cross join lateral (values (name), ('_' || name || '_log')) of (relation)
    union all
    -- Others may be those who write, and who keep something by context.state.
    select 'context_state', array['select', 'insert', 'update', 'delete'], false
    union all
    select name, array['insert', 'update', 'delete'], false from unnest($1::text[]) as name
),
lacking as (
    select n.relation, string_agg(privilege, ', ') as privileges, n.is_vital
    from needed n
    join pg_class c on c.relname = n.relation and c.relnamespace = to_regnamespace('streams')
    cross join unnest(n.privileges) as privilege
    where not has_table_privilege(c.oid, privilege)
    group by n.relation, n.is_vital
)
select format('grant usage on schema streams to %I', current_user) as statement, true as is_vital
from pg_namespace
where nspname = 'streams' and not has_schema_privilege(oid, 'usage')
union all
select format('grant %s on streams.%I to %I', privileges, relation, current_user), is_vital from lacking
union all
-- Without them the log's partitions become larger, and none is dropped.
select format('grant execute on function %s to %I', p.oid::regprocedure, current_user), false
from pg_proc p
where p.pronamespace = to_regnamespace('streams') and p.proname in ('make_room', 'drop_partitions')
  and not has_function_privilege(p.oid, 'execute')
