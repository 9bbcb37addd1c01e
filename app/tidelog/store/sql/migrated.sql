-- How far the database is migrated, and who may go on with it. One row.
--
-- has_version: whether the table of the revision is there; may_read: whether this role may read it. Who migrates must be
-- the schema's owner, or a member of it; where there is no schema yet, it must be allowed to make one.
--
-- Called at every start. Locks: none.
select
    n.oid is not null as has_schema,
    v.oid is not null as has_version,
    v.oid is not null and has_schema_privilege(n.oid, 'usage') and has_table_privilege(v.oid, 'select') as may_read,
    case
        when n.oid is null then has_database_privilege(current_database(), 'create')
        else pg_has_role(n.nspowner, 'usage')
    end as may_migrate,
    current_database() as database,
    current_user as role,
    pg_get_userbyid(n.nspowner) as owner
from (select to_regnamespace('streams')::oid as oid) as s
left join pg_namespace n on n.oid = s.oid
left join pg_class v on v.relname = 'alembic_version' and v.relnamespace = n.oid
