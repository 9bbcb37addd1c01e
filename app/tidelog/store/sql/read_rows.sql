-- The rows $2 (their seqs) of transaction $1, in order, up to $3 bytes of data, ids and types (but one row at least). One
-- that is larger than $4 bytes comes without these.
-- A lookup for each: with `seq = any` the planner may read all rows of the transaction, and compare each with all seqs.
-- Locks: none. Called for a commit that is large (app/tidelog/store/bulk.py).
select
    kind, seq,
    case when size <= $4 then id end as id,
    case when size <= $4 then op end as op,
    version,
    case when size <= $4 then data end as data
from (
    select made.*, sum(size) over before_it as before
    from (
        select kind, seq, id, op, version, written as data, octet_length(written) + size_beside as size
        from (
            select w.*, sum(pg_column_size(w.data) + size_beside) over before_it as stored_before
            from (
                select 'change' as kind, c.seq, c.id, c.op, c.version, c.data, octet_length(c.id) as size_beside
                from unnest($2::bigint[]) as wanted (seq)
                cross join lateral (
                    select * from streams.change where xid = $1::xid8 and seq = wanted.seq offset 0
                ) c
                union all
                select 'event', e.seq, e.id, e.type, 0, e.data, coalesce(octet_length(e.id), 0) + octet_length(e.type)
                from unnest($2::bigint[]) as wanted (seq)
                cross join lateral (
                    select * from streams.event where xid = $1::xid8 and seq = wanted.seq offset 0
                ) e
            ) w
            window before_it as (order by w.seq rows between unbounded preceding and 1 preceding)
        ) sized
        cross join lateral (select data::text as written offset 0) as_text
        where coalesce(stored_before, 0) < $3  -- before texts are made
    ) made
    window before_it as (order by seq rows between unbounded preceding and 1 preceding)
) paged
where coalesce(before, 0) < $3
order by seq
