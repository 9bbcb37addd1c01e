-- A page of the newest commits, for those who follow the feed: small ones whole, and of each other one a row
-- without id, op and data, which says that the commit has to be read apart (app/tidelog/store/bulk.py).
--
-- $1 first number, $2 last number, $3 rows at most, $4 bytes at most (of data, ids, groups and types); $5 rows and $6
-- stored bytes of a small commit at most; $7 the lowest xid that they may have (xid_range.sql). A commit without rows is one row with a null kind. `size` is the number of its commit's rows: a
-- commit of which not all are here was cut off by $3 or $4. `forgotten`, the same in each row, are the streams of which changes
-- from $1 on may have been removed before they were read here.
--
-- Of a commit no more rows are looked at than one more than a small one has of each kind, and only of small ones texts
-- are made. So a commit of a million rows, or of a few very large ones, costs no more here than a small one.
-- Locks: none. Called by the reader (app/tidelog/store/live.py).
select
    number, xid, at_ms, kind, seq, stream, group_id,
    case when is_small and upto <= $4 then id end as id,
    case when is_small and upto <= $4 then op end as op,
    version,
    case when is_small and upto <= $4 then data end as data,
    size,
    (select array_agg(f.stream) from streams.stream_floor f where f.number >= $1) as forgotten
from (
    select
        made.*,
        sum(octet_length(data) + size_beside) over (order by number, seq rows unbounded preceding) as upto
    from (
        select
            number, xid, at_ms, kind, seq, stream, group_id, id, op, version, size, size_beside, is_small, before,
            case when is_small then data::text end as data
        from (
            select
                page.*,
                lag(number) over in_order as before,
                sum(case when is_small then pg_column_size(data) + size_beside end) over in_order as stored_upto
            from (
                select
                    n.number, n.xid, (extract(epoch from n.at) * 1000)::float8 as at_ms,
                    w.kind, w.seq, w.stream, w.group_id, w.id, w.op, w.version, w.data, w.size_beside,
                    count(*) over of_commit as size,
                    count(*) over of_commit <= $5
                        and coalesce(sum(pg_column_size(w.data) + w.size_beside) over of_commit, 0) <= $6 as is_small
                from streams.commit n
                left join lateral (
                    (select 'change' as kind, c.seq, c.stream, c.group_id, c.id, c.op, c.version, c.data,
                         octet_length(c.stream) + octet_length(c.group_id) + octet_length(c.id) as size_beside
                     from streams.change c
                     where c.xid = n.xid
                       and c.xid >= $7::xid8 and c.xid < streams.in_log(pg_snapshot_xmax(pg_current_snapshot()))
                     order by c.seq limit $5::bigint + 1)
                    union all
                    (select 'event', e.seq, e.stream, e.group_id, e.id, e.type, 0, e.data,
                         octet_length(e.stream) + octet_length(e.group_id) + coalesce(octet_length(e.id), 0)
                             + octet_length(e.type)
                     from streams.event e
                     where e.xid = n.xid
                     order by e.seq limit $5::bigint + 1)
                ) w on true
                where n.number between $1 and $2
                window of_commit as (partition by n.number)
                order by n.number, w.seq
                limit $3
            ) page
            window in_order as (order by number, seq rows unbounded preceding)
        ) sized
        where coalesce(stored_upto, 0) <= $4 or before is null
    ) made
) paged
where (coalesce(upto, 0) <= $4 or before is null) and (is_small or before is distinct from number)
order by number, seq
