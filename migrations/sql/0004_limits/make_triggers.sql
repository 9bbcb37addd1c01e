-- Make the triggers of a stream's table, whether or not they are there. Items that came without them get their ids.
-- Raises check_violation if what is stored can't be an item, with the statement that shows it.
-- Locks: SHARE ROW EXCLUSIVE on the table. Called by streams.declare.
create or replace function streams.make_triggers(stream_name text, stream_table text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    wrong constant text := 'jsonb_typeof(data) <> ''object'' or octet_length(group_id) not between 1 and 1024 '
        'or octet_length(id) not between 1 and 1024';
    number bigint;
begin
    execute format('lock table streams.%I in share row exclusive mode', stream_table);
    execute format('select count(*) from streams.%I where %s', stream_table, wrong) into number;
    if number > 0 then
        raise check_violation using
            message = format('%s rows of streams.%I can''t be items of stream %s', number, stream_table, stream_name),
            hint = format('mend or delete them: `select * from streams.%I where %s`', stream_table, wrong);
    end if;

    execute format(
        'create or replace trigger "~tidelog_complete" before insert or update on streams.%1$I
         for each row execute function streams.complete_item()', stream_table);
    execute format('alter table streams.%I enable always trigger "~tidelog_complete"', stream_table);
    -- Before the next trigger: what it has not seen is logged later, as it is then.
    execute format('update streams.%I set data = data where data -> ''id'' is distinct from to_jsonb(id)', stream_table);

    execute format(
        'create or replace trigger tidelog_record after insert or update or delete on streams.%1$I
         for each row execute function streams.record_change(%2$L, %3$L)', stream_table, stream_name, stream_table);
    execute format(
        'create or replace trigger tidelog_refuse_truncate before truncate on streams.%1$I
         for each statement execute function streams.refuse_truncate()', stream_table);
    -- ALWAYS: also for logical replication's apply, which skips ordinary triggers, as those are that were restored
    -- with --disable-triggers.
    execute format(
        'alter table streams.%1$I
             enable always trigger tidelog_record,
             enable always trigger tidelog_refuse_truncate', stream_table);
end
$$;
