-- The id of this transaction as the log has it; null if it has written nothing. Asked of a step that wrote by SQL of its own.
--
-- The step may have taken a role that may use nothing in the schema streams (SET ROLE). So the log's era is read off the
-- function that knows it (migrations/sql/0006_partitions/begin_era.sql) instead of asking it: everybody may read that.
-- Locks: none.
select (
    pg_catalog.pg_current_xact_id_if_assigned()::text::bigint
    + coalesce(
        (
            select substring(pg_catalog.pg_get_function_sqlbody(p.oid) from '[0-9]{10,}')::bigint
            from pg_catalog.pg_proc p
            join pg_catalog.pg_namespace n on n.oid = p.pronamespace
            where n.nspname = 'streams' and p.proname = 'transaction_id'
        ),
        0
    )
)::text::xid8
