-- BEFORE TRUNCATE on every stream table. TRUNCATE is not MVCC-safe: a snapshot taken before it would find
-- the table empty, and no subscriber could be told which items went.
create function streams.refuse_truncate() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception 'TRUNCATE of %.% is refused: its subscribers could not be told', tg_table_schema, tg_table_name
        using errcode = 'feature_not_supported',
              hint = format('Use DELETE FROM %I.%I.', tg_table_schema, tg_table_name);
end
$$;
