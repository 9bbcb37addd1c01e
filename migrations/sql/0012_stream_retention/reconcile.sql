-- Log what the log of a stream lacks to tell how its table came to be as it is: items that went without a trigger's
-- seeing it are deleted, those that came are created, those that are different are updated. Answers what was logged,
-- null if nothing. Subscribers are told, as of any commit.
--
-- Where retention has removed the beginning of the log, or changes of this stream, an item that the log doesn't have may be
-- older: it is let be.
-- Reads the whole log, once. Locks: the doorbell's. The caller has locked the table's writers out.
-- Called by streams.declare, when a table or a trigger was missing.
create or replace function streams.reconcile(stream_name text, stream_table text) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    told text;
begin
    execute format(
        $query$
            with
            last as (
                select distinct on (c.group_id, c.id) c.group_id, c.id, c.op, c.version, c.data
                from streams.change c
                where c.stream = $1
                order by c.group_id, c.id, c.seq desc
            ),
            differing as (
                select
                    group_id, id,
                    case when t.data is null then 'delete' when l.op is null or l.op = 'delete' then 'create' else 'update'
                    end as op,
                    coalesce(t.version, l.version) as version, coalesce(t.data, l.data) as data, t.created_at
                from last l full join streams.%I t using (group_id, id)
                where case
                    when t.data is null then l.op <> 'delete'
                    when l.op is null then $2
                    else l.op = 'delete' or (l.version, l.data) is distinct from (t.version, t.data)
                end
            ),
            logged as (
                insert into streams.change (stream, group_id, id, op, version, data)
                select $1, group_id, id, op, version, data from differing order by created_at, group_id, id
                returning op
            )
            select string_agg(format('%%s items as %%sd', number, op), ', ' order by op)
            from (select op, count(*) as number from logged group by op) counted
        $query$,
        stream_table
    ) into told using
        stream_name,
        coalesce((select min(number) = 1 from streams.commit), true)
            and not exists (select from streams.stream_floor f where f.stream = stream_name and f.number > 0);
    if told is not null then
        perform streams.ring_doorbell();
    end if;
    return told;
end
$$;
