-- Make the keys of a stream's table `collate "C"`: compared by their bytes, at no cost, and the same after an upgrade of the
-- C library, which may put texts of other collations in another order than their index has. Answers whether there was
-- something to do.
--
-- It rewrites the indexes with the keys, and no row. Called for tables that are new, and by `tidelog convert-keys`.
-- Locks: ACCESS EXCLUSIVE on the table, to the end of the transaction, while the indexes are made anew.
create function streams.convert_keys(stream_table text) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if not exists (
        select from pg_attribute a
        where a.attrelid = to_regclass(format('streams.%I', stream_table)) and a.attname in ('group_id', 'id')
          and a.attcollation <> '"C"'::regcollation
    ) then
        return false;
    end if;
    perform streams.lock_patiently(stream_table, 'access exclusive');
    execute format(
        'alter table streams.%I alter column group_id type text collate "C", alter column id type text collate "C"',
        stream_table
    );
    return true;
end
$$;
