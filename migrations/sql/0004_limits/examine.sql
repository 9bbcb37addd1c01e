-- What is wrong with the table, triggers and history view of a stream: no row if all is well.
--
-- severity   taken, refuse   somebody has to decide: `remedy` is what to run
--            mend            streams.declare mends it, which scripts/migrate calls
--            warn            it harms nobody: `remedy` says how to be rid of it
--
-- Called by streams.declare, and by every server at its start. Locks: none.
create or replace function streams.examine(stream_name text, stream_table text)
returns table (severity text, trouble text, remedy text)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    full_name constant text := format('streams.%I', stream_table);
    history_name constant text := format('streams.%I', stream_table || '_history');
    relation constant oid := to_regclass(full_name);
    history constant oid := to_regclass(history_name);
    kind constant "char" := (select c.relkind from pg_class c where c.oid = relation);
    is_known constant boolean := exists (select from streams.stream s where s.name = stream_name);
    stray regclass;       -- a table of another name that has this stream's trigger
    stray_name name;
    stray_schema name;
    drop_triggers text;
    owner_name text;      -- of the stream's table, or of the trigger on it
begin
    select s.name into owner_name from streams.stream s where s.table_name = stream_table and s.name <> stream_name;
    if found then
        return query select
            'refuse',
            format('stream %s needs the table %s, which belongs to stream %s', stream_name, full_name, owner_name),
            format(
                'rename one of them in its file; or, if %2$s is %1$s now, run `update streams.stream set name = %1$L '
                'where name = %2$L; drop trigger tidelog_record on %3$s;` and '
                'scripts/migrate (installed: tidelog migrate), which logs its items as created',
                stream_name, owner_name, full_name
            );
        return;
    end if;

    if (select c.relkind from pg_class c where c.oid = history) <> 'v' then
        return query select
            'taken',
            format('stream %s needs the name %s, which is taken by something else', stream_name, history_name),
            format('rename it: `alter table %s rename to %I;`', history_name, stream_table || '_other');
    elsif position(format('stream = %L', stream_name) in coalesce(pg_get_viewdef(history), '')) = 0
        and relation is not null then
        return query select 'mend', format('the view %s of stream %s is missing', history_name, stream_name), null;
    end if;

    select t.tgrelid::regclass, c.relname, n.nspname into stray, stray_name, stray_schema
    from pg_trigger t join pg_class c on c.oid = t.tgrelid join pg_namespace n on n.oid = c.relnamespace
    where t.tgfoid = 'streams.record_change()'::regprocedure and not t.tgisinternal
      and starts_with(encode(t.tgargs, 'escape'), stream_name || '\000') and t.tgrelid is distinct from relation
    limit 1;
    drop_triggers := format(
        'drop trigger if exists tidelog_record on %1$s; drop trigger if exists "~tidelog_complete" on %1$s; '
        'drop trigger if exists tidelog_refuse_truncate on %1$s;', stray
    );

    if relation is null then
        if stray is null then
            return query select
                'mend',
                case
                    when is_known then format('the table %s of stream %s is gone', full_name, stream_name)
                    else format('no table %s yet for stream %s', full_name, stream_name)
                end,
                null;
            return;
        end if;
        return query select
            'refuse',
            format('the table of stream %s is %s, not %s: it was renamed', stream_name, stray, full_name),
            format('give it back its name: `%s`; or, to begin with an empty table and keep that one as a plain one, '
                   'run `%s` and scripts/migrate (installed: tidelog migrate), which logs its items as deleted',
                concat_ws(' ',
                    case when stray_name <> stream_table then format('alter table %s rename to %I;', stray, stream_table) end,
                    case when stray_schema <> 'streams' then
                        format('alter table %I.%I set schema streams;', stray_schema, stream_table)
                    end),
                drop_triggers);
        return;
    end if;

    select args[1] into owner_name
    from (
        select string_to_array(encode(t.tgargs, 'escape'), '\000') as args, t.tgnargs
        from pg_trigger t
        where t.tgrelid = relation and t.tgfoid = 'streams.record_change()'::regprocedure and not t.tgisinternal
    ) a
    where args[1] <> stream_name or (tgnargs > 1 and args[2] <> stream_table);
    if found then
        return query select
            'refuse',
            format('%s has the triggers of stream %s: it was renamed', full_name, owner_name),
            format(
                'if it is the table of stream %1$s now, run `drop trigger tidelog_record on %2$s;` and '
                'scripts/migrate (installed: tidelog migrate), which logs its items as created; if not, '
                'give it another name: `alter table %2$s rename to %3$I;`',
                stream_name, full_name,
                coalesce((select s.table_name from streams.stream s where s.name = owner_name
                          and to_regclass(format('streams.%I', s.table_name)) is null), stream_table || '_old')
            );
        return;
    end if;

    if kind not in ('r', 'p') or not is_known and not exists (
        select from pg_trigger t
        where t.tgrelid = relation and not t.tgisinternal
          and t.tgfoid in ('streams.record_change()'::regprocedure, 'streams.complete_item()'::regprocedure)
    ) then
        return query select
            'taken',
            format('stream %s needs the name %s, which is taken by something else', stream_name, full_name),
            format('rename it: `alter table %s rename to %I;`', full_name, stream_table || '_other');
        return;
    end if;

    if not is_known then
        return query select 'mend', format('streams.stream has no row for stream %s', stream_name), null;
    end if;
    return query select * from streams.examine_table(stream_name, stream_table);
    if stray is not null then
        return query select
            'warn',
            format('%s has the triggers of stream %s, whose table is %s: writes to it are refused',
                stray, stream_name, full_name),
            format('to keep it as a plain table run `%s`', drop_triggers);
    end if;
end
$$;
