-- Up to which number, from $3 on, no commit has anything for these topics (streams $1, groups $2, side by side): what comes
-- before is passed over unread. $3 - 1 if the very next may have something; at most $4. $5 and $6 the xids that the
-- commits from $3 to $4 may have (xid_range.sql).
--
-- The first transaction that wrote to one of them is a lookup for each in the index (stream, group_id, xid). Every
-- transaction below it is told of by the batch whose snapshot ended there, or before: so all up to that batch's end is
-- nobody's.
-- Locks: none. Called where commits are read for few topics (app/tidelog/store/stride.py).
with first as (
    select min(found.xid) as xid
    from (
        select (
            select c.xid
            from streams.change c
            where c.stream collate "C" = wanted.stream and c.group_id collate "C" = wanted.group_id
              and c.xid >= $5::xid8 and c.xid < $6::xid8
            order by c.stream collate "C", c.group_id collate "C", c.xid
            limit 1
        ) as xid
        from unnest($1::text[], $2::text[]) as wanted (stream, group_id)
        union all
        select (
            select e.xid
            from streams.event e
            where e.stream collate "C" = wanted.stream and e.group_id collate "C" = wanted.group_id
              and e.xid >= $5::xid8 and e.xid < $6::xid8
            order by e.stream collate "C", e.group_id collate "C", e.xid
            limit 1
        )
        from unnest($1::text[], $2::text[]) as wanted (stream, group_id)
    ) found
)
select case
    when first.xid is null then $4::bigint
    else greatest(
        $3::bigint - 1,
        least(
            $4::bigint,
            (
                select coalesce(max(n.number), 0)  -- least() would take a null for no bound
                from (
                    select number
                    from streams.commit
                    where snapshot is not null and streams.snapshot_xmax(xid, snapshot) <= first.xid
                    order by streams.snapshot_xmax(xid, snapshot) desc, number desc
                    limit 1
                ) n
            )
        )
    )
end as number
from first
