-- Make a stream's time travel, where it is missing or of another release: the view of its log and the functions over it.
-- Raises if a name is taken by somebody else's, with the statement that renames it.
--
--   streams._<table>_log              every change; also of commits that have no number yet, or were removed (position is null)
--   streams.<table>_as_of(position)   the items as they were just after that commit; also by a time
--   streams.<table>_diff(from, to)    what changed from the one to the other, net; also by times
--
-- The functions are written so that Postgres puts them into the query that calls them: SQL, stable, not strict, nothing
-- set, one SELECT. So a condition on group_id and id reaches the log's index. What checks the positions comes first, as a
-- function in FROM on which the rest depends: it is evaluated once, and always before any row is read.
-- They run with their caller's rights; the view with its owner's, so its readers need none on the log.
--
-- As of p an item is what its last kept change at or before p made it. If there is none, the first change after p says
-- what was there before: nothing (create), the item as it is told (delete), or an item whose content isn't kept (update).
-- If there is none of these either, the item has been as it is since before the log begins: it is the table's row. These
-- two take more than the log up to p, and are asked for only where something was removed (floor > 0). Changes that have no
-- number yet are after all positions, and the table shows them: so they count as changes after p. Those whose commit was
-- removed, and which wait for their partition to be dropped, have none either, and count for nothing.
-- An item's own changes are in the order of seq, as its row lock was held from the one to the next.
--
-- Called by migrations for every declared stream. Locks: ACCESS EXCLUSIVE on the view, if it is made anew.
create or replace function streams.make_time_travel(stream_name text, stream_table text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '10s'
as $make$
declare
    log_name constant text := format('streams.%I', '_' || stream_table || '_log');
    names constant text[] := array[
        format('streams.%I(bigint)', stream_table || '_as_of'),
        format('streams.%I(timestamptz)', stream_table || '_as_of'),
        format('streams.%I(bigint, bigint)', stream_table || '_diff'),
        format('streams.%I(timestamptz, timestamptz)', stream_table || '_diff')
    ];
    view constant text := format($view$
        create or replace view %s as
        select c.group_id collate "C" as group_id, c.id collate "C" as id, c.seq, c.op, c.version, c.data, c.xid,
            n.number as position, n.at
        from streams.change c left join streams.commit n on n.xid = c.xid
        where c.stream collate "C" = %L$view$, log_name, stream_name);
    as_of constant text := format($function$
        create or replace function streams.%1$I(%%s) returns setof streams._as_of_row
        language sql stable parallel safe
        as $body$
            select
                i.group_id, i.id,
                case when i.rank = 1 and i.op = 'update' then null else i.data end as data,
                case when i.rank = 1 and i.op = 'update' then i.version - 1 else i.version end as version,
                case when i.rank = 0 then i.position end as position,
                case when i.rank = 0 then i.at end as at
            from streams.position_of($1, %4$L) p
            cross join lateral (
                select distinct on (l.group_id, l.id) l.*
                from (
                    select c.group_id, c.id, c.seq, c.op, c.version, c.data, c.position, c.at,
                        case when c.position <= p.number then 0 else 1 end as rank
                    from %2$s c
                    where c.position <= p.number or p.floor > 0 and (
                        c.position is not null or not streams.was_numbered(c.xid, p.head, p.snapshot)
                    )
                    union all
                    select t.group_id collate "C", t.id collate "C", 0, 'present', t.version, t.data, null, null, 2
                    from streams.%3$I t
                    where p.floor > 0
                ) l
                order by l.group_id, l.id, l.rank, case l.rank when 0 then -l.seq else l.seq end
            ) i
            where i.op <> case i.rank when 0 then 'delete' when 1 then 'create' else '' end
        $body$$function$, stream_table || '_as_of', log_name, stream_table, stream_name);
    diff constant text := format($function$
        create or replace function streams.%1$I(%%s) returns setof streams._diff_row
        language sql stable parallel safe
        as $body$
            select d.group_id, d.id, d.op, d.before, d.after, d.version_before, d.version_after, d.position, d.at
            from streams.span_of($1, $2, %3$L) s
            cross join lateral (
                select
                    r.group_id, r.id,
                    case when r.first_op = 'create' then 'create' when r.last_op = 'delete' then 'delete' else 'update' end
                        as op,
                    case r.first_op when 'update' then b.data when 'delete' then r.first_data end as before,
                    case when r.last_op <> 'delete' then r.last_data end as after,
                    case r.first_op
                        when 'update' then coalesce(b.version, r.first_version - 1)
                        when 'delete' then r.first_version
                    end as version_before,
                    case when r.last_op <> 'delete' then r.last_version end as version_after,
                    r.position, r.at
                from (
                    select
                        f.group_id, f.id,
                        min(f.op) filter (where f.is_first) as first_op,
                        (array_agg(f.data) filter (where f.is_first))[1] as first_data,
                        min(f.version) filter (where f.is_first) as first_version,
                        min(f.op) filter (where f.is_last) as last_op,
                        (array_agg(f.data) filter (where f.is_last))[1] as last_data,
                        min(f.version) filter (where f.is_last) as last_version,
                        max(f.position) as position, max(f.at) as at
                    from (
                        select c.*, lag(c.seq) over item is null as is_first, lead(c.seq) over item is null as is_last
                        from %2$s c
                        where c.position > s.begins and c.position <= s.ends
                        window item as (partition by c.group_id, c.id order by c.seq)
                    ) f
                    where f.is_first or f.is_last
                    group by f.group_id, f.id
                ) r
                left join lateral (
                    select c.data, c.version
                    from %2$s c
                    where r.first_op = 'update' and c.group_id = r.group_id and c.id = r.id and c.position <= s.begins
                    order by c.seq desc
                    limit 1
                ) b on true
                where r.first_op <> 'create' or r.last_op <> 'delete'
            ) d
            where d.op <> 'update' or d.before is distinct from d.after
        $body$$function$, stream_table || '_diff', log_name, stream_name);
    mark constant text := 'Tidelog: ' || md5(view || as_of || diff);
    said constant text := obj_description(to_regclass(log_name), 'pg_class');
    name text;
    taken text;
begin
    if said is null and to_regclass(log_name) is not null then
        raise duplicate_table using
            message = format('stream %s needs the name %s, which is taken by something else', stream_name, log_name),
            hint = format('rename it: `alter %s %s rename to %I;`',
                case (select c.relkind from pg_class c where c.oid = to_regclass(log_name)) when 'v' then 'view' else 'table' end,
                log_name, stream_table || '_other');
    end if;
    foreach name in array names loop
        select p.oid::regprocedure::text into taken from pg_proc p
        where p.oid = to_regprocedure(name)
          and p.prorettype not in ('streams._as_of_row'::regtype, 'streams._diff_row'::regtype);
        if found then
            raise duplicate_function using
                message = format('stream %s needs the name %s, which is another function''s', stream_name, name),
                hint = format('rename it: `alter routine %s rename to %I;`', name, stream_table || '_other');
        end if;
    end loop;
    if said = mark and not exists (select from unnest(names) n where to_regprocedure(n) is null) then
        return;
    end if;

    execute view;
    execute format(as_of, '"position" bigint');
    execute format(as_of, 'at timestamptz');
    execute format(diff, '"from" bigint, "to" bigint');
    execute format(diff, '"from" timestamptz, "to" timestamptz');
    execute format('comment on view %s is %L', log_name, mark);
end
$make$;
