-- The functions by which database histories are told apart (epoch_state.sql), as far as this role may not call them: the
-- statements that would let it. Everybody may, unless somebody has taken that away.
--
-- Called at every start, and before a migration. Locks: none.
select format('grant execute on function pg_catalog.%s to %I', signature, current_user) as statement
from unnest(array['pg_current_wal_lsn()', 'pg_walfile_name(pg_lsn)', 'pg_control_system()']) as signature
where not has_function_privilege(to_regprocedure('pg_catalog.' || signature), 'execute')  -- null: there is none
