-- A page of the numbered log, in the order of the feed.
--
-- $1 first number, $2 the last seq already read of that commit (-1: none), $3 last number, $4 rows at most,
-- $5 bytes of their data, ids and types at most (but one row at least), $6 streams and $7 group ids, or null for all, and $8 whether these
-- are pairs, side by side; else it is every pair of theirs; $9 and $10 the xids that they may have (xid_range.sql). Pairs are hashed once, not compared with each row. Without
-- $6 a commit without rows to read is one row with a null kind. `found` tells whether there is more up to
-- $3: then it is more than the rows of this page.
--
-- Whether a commit has rows of these streams and groups is looked up first: where in braces below a table is named goes the
-- text of has_some.sql.
-- Each commit's rows are taken in the order of the key, at most a page of them, so that a commit of a
-- million changes costs its share at each page, not all of it.
select number, xid, at_ms, kind, seq, stream, group_id, id, op, version, written as data, found
from (
    select
        sized.*, as_text.written,
        sum(octet_length(as_text.written) + size_beside)
            over (order by number, seq rows between unbounded preceding and 1 preceding) as before
    from (
        select
            page.*,
            count(*) over () as found,
            sum(pg_column_size(data) + size_beside)
                over (order by number, seq rows between unbounded preceding and 1 preceding) as stored_before
        from (
            select
                n.number, n.xid, (extract(epoch from n.at) * 1000)::float8 as at_ms,
                w.kind, w.seq, w.stream, w.group_id, w.id, w.op, w.version, w.data, w.size_beside
            from streams.commit n
            left join lateral (
                (select 'change' as kind, c.seq, c.stream, c.group_id, c.id, c.op, c.version, c.data,
                     octet_length(c.id) as size_beside
                 from streams.change c
                 where c.xid = n.xid and c.xid >= $9::xid8 and c.xid < $10::xid8 and c.seq > case when n.number = $1 then $2 else -1 end
                     and case
                         when $8 then (c.stream, c.group_id) in (select * from unnest($6::text[], $7::text[]))
                         else ($6::text[] is null or c.stream = any ($6)) and ($7::text[] is null or c.group_id = any ($7))
                     end
                     and {change_has_some}
                 order by c.seq limit $4)
                union all
                (select 'event', e.seq, e.stream, e.group_id, e.id, e.type, 0, e.data,
                     coalesce(octet_length(e.id), 0) + octet_length(e.type)
                 from streams.event e
                 where e.xid = n.xid and e.seq > case when n.number = $1 then $2 else -1 end
                     and case
                         when $8 then (e.stream, e.group_id) in (select * from unnest($6::text[], $7::text[]))
                         else ($6::text[] is null or e.stream = any ($6)) and ($7::text[] is null or e.group_id = any ($7))
                     end
                     and {event_has_some}
                 order by e.seq limit $4)
            ) w on true
            where n.number between $1 and $3 and (w.kind is not null or $6::text[] is null)
            order by n.number, w.seq
            limit $4
        ) page
    ) sized
    cross join lateral (select sized.data::text as written offset 0) as_text
    where coalesce(sized.stored_before, 0) < $5  -- before texts are made
) paged
where coalesce(before, 0) < $5
order by number, seq
