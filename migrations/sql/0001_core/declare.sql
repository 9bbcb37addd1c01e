-- Make the table, triggers and history view of a stream, if they aren't there; answers whether it made them.
-- Triggers that a restore left ordinary are set to fire always again. Never drops or rewrites anything.
-- Called by migrations for every declared stream.
-- Locks: none on existing tables; the caller keeps two migrations from running at once.
create function streams.declare(stream_name text, stream_table text, stream_schema jsonb) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    taken_by text;
    ordinary name;
begin
    select s.name into taken_by from streams.stream s where s.table_name = stream_table and s.name <> stream_name;
    if found then
        raise exception 'stream % needs the table streams.%, which belongs to stream %',
            stream_name, stream_table, taken_by
            using hint = 'Rename one of them; or, if it was renamed, update streams.stream and its triggers by hand.';
    end if;
    insert into streams.stream as s (name, table_name, schema) values (stream_name, stream_table, stream_schema)
    on conflict (name) do update set schema = excluded.schema where s.schema is distinct from excluded.schema;

    if to_regclass(format('streams.%I', stream_table)) is not null then
        if not exists (
            select from pg_trigger
            where tgrelid = to_regclass(format('streams.%I', stream_table)) and tgname = 'tidelog_record'
        ) then
            raise exception 'stream % needs the name streams.%, which is taken by something else',
                stream_name, stream_table
                using errcode = 'duplicate_table', hint = 'Rename one of them.';
        end if;
        -- A data-only restore with --disable-triggers leaves them ordinary, as it can't know better.
        for ordinary in
            select tgname from pg_trigger
            where tgrelid = format('streams.%I', stream_table)::regclass
              and tgname like 'tidelog\_%' and tgenabled = 'O'
        loop
            execute format('alter table streams.%I enable always trigger %I', stream_table, ordinary);
        end loop;
        return false;
    end if;

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

    execute format(
        'create trigger tidelog_complete before insert or update on streams.%1$I
         for each row execute function streams.complete_item()', stream_table);
    execute format(
        'create trigger tidelog_record after insert or update or delete on streams.%1$I
         for each row execute function streams.record_change(%2$L)', stream_table, stream_name);
    execute format(
        'create trigger tidelog_refuse_truncate before truncate on streams.%1$I
         for each statement execute function streams.refuse_truncate()', stream_table);
    -- ALWAYS: also for logical replication's apply, which skips ordinary triggers.
    execute format(
        'alter table streams.%1$I
             enable always trigger tidelog_complete,
             enable always trigger tidelog_record,
             enable always trigger tidelog_refuse_truncate', stream_table);

    execute format($view$
        create view streams.%1$I as
        select n.number as position, n.at, c.seq, c.op, c.group_id, c.id, c.version, c.data, c.xid
        from streams.change c join streams.commit n on n.xid = c.xid
        where c.stream = %2$L$view$, stream_table || '_history', stream_name);
    return true;
end
$$;
