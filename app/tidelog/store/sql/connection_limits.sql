-- How many connections this session's role, its database and the server allow: name of the setting, and how many. No
-- row where there is no limit. Superusers are bound by the server's only.
--
-- Called once, at start. Locks: none.
select 'connection limit of role ' || quote_ident(rolname) as setting, rolconnlimit as allowed
from pg_roles
where rolname = session_user and rolconnlimit >= 0 and not rolsuper
union all
select 'connection limit of database ' || quote_ident(datname), datconnlimit
from pg_database, pg_roles
where datname = current_database() and rolname = session_user and datconnlimit >= 0 and not rolsuper
union all
select
    'max_connections of the server, less those that it reserves',
    current_setting('max_connections')::int - case when rolsuper then 0 else
        current_setting('superuser_reserved_connections')::int
        + coalesce(current_setting('reserved_connections', true)::int, 0)  -- since Postgres 16
    end
from pg_roles
where rolname = session_user
