-- What streams.declare does, which this calls; and a table that it makes has keys that are `collate "C"`.
-- Called by migrations for every declared stream. Locks: those of streams.declare.
create function streams.declare_stream(stream_name text, stream_table text, stream_schema jsonb) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    is_new constant boolean := to_regclass(format('streams.%I', stream_table)) is null;
    done constant text := streams.declare(stream_name, stream_table, stream_schema);
begin
    if is_new then
        perform streams.convert_keys(stream_table);
    end if;
    return done;
end
$$;
