-- What is wrong with a table that is a stream's: see examine.sql, which calls this. Locks: none.
create or replace function streams.examine_table(stream_name text, stream_table text)
returns table (severity text, trouble text, remedy text)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    full_name constant text := format('streams.%I', stream_table);
    relation constant oid := to_regclass(full_name);
begin
    return query
    select
        'refuse',
        format(
            'the column %s of %s %s', w.name, full_name,
            case
                when a.type is null then 'is missing'
                when a.type <> w.type then 'is of type ' || a.type
                else 'has no default'
            end
        ),
        case
            when a.type is null then
                format('`alter table %s add column %s %s not null%s;`', full_name, w.name, w.type, ' default ' || w.value)
            when a.type <> w.type then format('`alter table %s alter column %s type %s;`', full_name, w.name, w.type)
            else format('`alter table %s alter column %s set default %s;`', full_name, w.name, w.value)
        end
    from (
        values
            ('group_id', 'text', null),
            ('id', 'text', null),
            ('data', 'jsonb', null),
            ('version', 'bigint', '1'),
            ('created_at', 'timestamp with time zone', 'clock_timestamp()'),
            ('updated_at', 'timestamp with time zone', 'clock_timestamp()')
    ) w (name, type, value)
    left join (
        select c.attname, format_type(c.atttypid, c.atttypmod) as type, c.atthasdef
        from pg_attribute c
        where c.attrelid = relation and c.attnum > 0 and not c.attisdropped
    ) a on a.attname = w.name
    where a.type is distinct from w.type or (w.value is not null and not a.atthasdef);

    if not found and not exists (
        select from pg_index i
        where i.indrelid = relation and i.indisunique and i.indisvalid and i.indpred is null and i.indnkeyatts = 2
          and array(select c.attname::text from pg_attribute c where c.attrelid = relation and c.attnum = any (i.indkey))
              @> array['group_id', 'id']
    ) then
        return query select
            'refuse', format('%s has no primary key', full_name),
            format('`alter table %s add primary key (group_id, id);`', full_name);
    end if;

    -- tgtype: what fires it, as in Postgres's catalog/pg_trigger.h. tgargs: each argument ends with a zero byte.
    return query
    select
        'mend',
        format(
            'the trigger %s of %s is %s', w.name, full_name,
            case when t.oid is null then 'missing' when t.tgenabled = 'A' then 'another one' else 'disabled' end
        ),
        null
    from (
        values
            ('~tidelog_complete', 'streams.complete_item()', 23, ''),
            ('tidelog_record', 'streams.record_change()', 29, format('%s\000%s\000', stream_name, stream_table)),
            ('tidelog_refuse_truncate', 'streams.refuse_truncate()', 34, '')
    ) w (name, function, type, arguments)
    left join pg_trigger t on t.tgrelid = relation and t.tgname = w.name and not t.tgisinternal
    where t.oid is null or t.tgenabled <> 'A' or t.tgfoid <> w.function::regprocedure or t.tgtype <> w.type
        or t.tgqual is not null or t.tgattr::text <> '' or encode(t.tgargs, 'escape') <> w.arguments;

    -- tgtype: a row trigger (1) that fires before (2) INSERT (4) or UPDATE (16).
    return query
    select
        'warn',
        format('the trigger %I of %s fires after "~tidelog_complete"', t.tgname, full_name),
        format(
            'if it changes the row, an item may lack its id or keep its version: `alter trigger %I on %s rename to %I;`',
            t.tgname, full_name, 'a_' || t.tgname
        )
    from pg_trigger t
    where t.tgrelid = relation and not t.tgisinternal and t.tgname > '~tidelog_complete'::name
        and t.tgtype & 3 = 3 and t.tgtype & 20 <> 0;
end
$$;
