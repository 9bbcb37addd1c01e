-- Make the table, triggers and history view of a stream, where they are missing, and mend what streams.examine says can
-- be mended. Answers what was done, null if nothing was to do. Never drops or rewrites an item. Raises what is for
-- somebody to decide, with the statement in its hint.
--
-- What was written while a trigger was missing is logged now, and so is what went with a table that was dropped.
--
-- Called by migrations for every declared stream.
-- Locks: none on existing tables where nothing is to be mended; SHARE ROW EXCLUSIVE on the stream's own otherwise, which
-- is waited for no longer than lock_timeout says below. The caller keeps two migrations from running at once.
create or replace function streams.declare(stream_name text, stream_table text, stream_schema jsonb) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '10s'
as $$
declare
    is_known constant boolean := exists (select from streams.stream s where s.name = stream_name);
    is_new constant boolean := to_regclass(format('streams.%I', stream_table)) is null;
    code text;
    message text;
    remedy text;
    mended text;
    is_blind boolean;  -- something may have been written that no trigger saw
    logged text;
begin
    select
        min(case x.severity when 'taken' then '42P07' else '55000' end) filter (where x.severity in ('taken', 'refuse')),
        string_agg(x.trouble, '; ') filter (where x.severity in ('taken', 'refuse')),
        string_agg(x.remedy, '; ') filter (where x.severity in ('taken', 'refuse')),
        string_agg(x.trouble, '; ') filter (where x.severity = 'mend'),
        coalesce(bool_or(x.severity = 'mend' and x.trouble like 'the trigger %'), false)
    into code, message, remedy, mended, is_blind
    from streams.examine(stream_name, stream_table) x;
    if message is not null then
        raise exception using errcode = code, message = message, hint = remedy;
    end if;

    insert into streams.stream as s (name, table_name, schema) values (stream_name, stream_table, stream_schema)
    on conflict (name) do update set schema = excluded.schema where s.schema is distinct from excluded.schema;
    if mended is null then
        return null;
    end if;

    if is_new then
        execute format($table$
            create table streams.%1$I (
                group_id   text        not null,
                id         text        not null,
                data       jsonb       not null,
                version    bigint      not null default 1,
                created_at timestamptz not null default clock_timestamp(),
                updated_at timestamptz not null default clock_timestamp(),
                primary key (group_id, id)
            )$table$, stream_table);
    end if;
    if is_new or is_blind then
        perform streams.make_triggers(stream_name, stream_table);
        if is_known or is_blind then
            logged := streams.reconcile(stream_name, stream_table);
        end if;
    end if;
    perform streams.make_history(stream_name, stream_table);

    if is_new and not is_known then
        return format('made streams.%s for stream %s', stream_table, stream_name);
    end if;
    return concat_ws('; ', mended || ': mended', 'logged ' || logged);
end
$$;
