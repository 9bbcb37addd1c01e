-- The rows $2 (their seqs) of transaction $1, in order, up to $3 bytes of data (but one row at least). One whose data is
-- larger than $4 bytes comes without.
-- Locks: none. Called for a commit that is large (app/store/bulk.py).
select kind, seq, id, op, version, case when octet_length(data) <= $4 then data end as data
from (
    select made.*, sum(octet_length(data)) over before_it as before
    from (
        select kind, seq, id, op, version, data::text as data
        from (
            select w.*, sum(pg_column_size(w.data)) over before_it as stored_before
            from (
                select 'change' as kind, c.seq, c.id, c.op, c.version, c.data
                from streams.change c
                where c.xid = $1::xid8 and c.seq = any ($2::bigint[])
                union all
                select 'event', e.seq, e.id, e.type, 0, e.data
                from streams.event e
                where e.xid = $1::xid8 and e.seq = any ($2::bigint[])
            ) w
            window before_it as (order by w.seq rows between unbounded preceding and 1 preceding)
        ) sized
        where coalesce(stored_before, 0) < $3  -- before texts are made
    ) made
    window before_it as (order by seq rows between unbounded preceding and 1 preceding)
) paged
where coalesce(before, 0) < $3
order by seq
