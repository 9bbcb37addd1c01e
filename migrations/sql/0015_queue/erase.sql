-- Erase an item, or all items of a group (erased_id null): as somebody may ask for who is in it. Answers how many rows of the
-- log it was in.
--
-- The item is deleted, which subscribers are told as of any commit. What was in it is replaced in every row of the log, also
-- in that of this very delete, by nothing but its id, and the history says `erased`. Positions stay. Events of the group, or to
-- the item, are deleted. Jobs of stream steps, also parked ones, keep that the item changed, and nothing of what it was; of
-- their errors, which may quote it, the kind. What the steps' own events carry, nobody knows but they.
--
-- It runs with its caller's rights, and takes those of the log's owner. What is deleted is in the files of the database until
-- they are vacuumed (`tidelog erase` does), and in its backups, WAL and replicas for as long as these are kept.
--
-- Locks: the rows it deletes and changes; a transaction that has written to one of them is waited for.
create or replace function streams.erase(stream text, group_id text, id text default null) returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    erased_stream constant text := stream;
    erased_group constant text := group_id;
    erased_id constant text := id;
    stream_table text;
    number bigint;
begin
    select s.table_name into stream_table from streams.stream s where s.name = erased_stream;
    if stream_table is null then
        raise undefined_object using message = format('no stream is named %L', erased_stream);
    end if;
    execute format('delete from streams.%I i where i.group_id = $1 and ($2 is null or i.id = $2)', stream_table)
        using erased_group, erased_id;
    -- In a statement of its own, which sees what the delete has logged, and what those had logged that it waited for.
    update streams.change c
    set data = jsonb_build_object('id', c.id), erased_at = clock_timestamp()
    where c.stream = erased_stream and c.group_id = erased_group and (erased_id is null or c.id = erased_id)
      and c.erased_at is null;
    get diagnostics number = row_count;
    delete from streams.event e
    where e.stream = erased_stream and e.group_id = erased_group and (erased_id is null or e.id = erased_id);
    update streams.step_job j
    set input = jsonb_set(j.input, '{event,data}', jsonb_build_object('id', j.input -> 'id')),
        error = split_part(j.error, ':', 1),
        claim = j.claim + 1  -- a run that has begun may not end it, nor say why it failed: it is run again
    where j.topic = 'stream' and j.key = erased_group and j.input ->> 'streamName' = erased_stream
      and (erased_id is null or j.input ->> 'id' = erased_id);
    update streams.step_parked j
    set input = jsonb_set(j.input, '{event,data}', jsonb_build_object('id', j.input -> 'id')),
        error = split_part(j.error, ':', 1), traceback = ''
    where j.topic = 'stream' and j.key = erased_group and j.input ->> 'streamName' = erased_stream
      and (erased_id is null or j.input ->> 'id' = erased_id);
    return number;
end
$$;
