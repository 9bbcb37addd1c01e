-- A page of past commits in one group, or of its one item, each as the message that tells of it.
--
-- The message is an expression of a dialect over n (number, at, xid), c (op, id, version, data) and its words $1, for a
-- commit of one change. A commit that has a second row has more of them, and one whose message is null sends events:
-- that is for read_commits.sql to tell. Every other commit is one row; one that changes nothing of the group is none.
--
-- $2 stream, $3 group, $4 item or null, $5 first number, $6 last number, $7 rows at most, $8 bytes of messages at
-- most (but one row at least); $9 and $10 the xids that they may have (xid_range.sql).
--
-- Two ways to the rows. Where the commits' transactions are near each other, as they mostly are, all that the group has
-- between the lowest and the highest is read at once, in its index, and joined: two thirds of what it costs to look each up. Where
-- they aren't (one was open for long), or the group has more there than a page, each commit's rows are looked up in
-- order, up to a page of them: so a commit of a million changes costs no more than that. The rows of one commit are in no order.
-- Locks: none.
with page as materialized (
    select n.number, n.xid, n.at from streams.commit n where n.number between $5 and $6
),
span as materialized (
    select
        min(xid) as low, max(xid) as high,
        max(xid)::text::numeric - min(xid)::text::numeric <= 16 * count(*) as is_narrow
    from page
),
near as materialized (
    select c.xid, c.op, c.id, c.version, c.data
    from streams.change c
    where c.stream collate "C" = $2 and c.group_id collate "C" = $3 and ($4::text is null or c.id = $4)
      and c.xid >= $9::xid8 and c.xid < $10::xid8
      and c.xid >= (select low from span) and c.xid <= (select high from span) and (select is_narrow from span)
    limit 2 * $7
),
near_events as materialized (
    select e.xid
    from streams.event e
    where e.stream collate "C" = $2 and e.group_id collate "C" = $3 and ($4::text is null or e.id = $4)
      and e.xid >= (select low from span) and e.xid <= (select high from span) and (select is_narrow from span)
    limit 2 * $7
),
way as materialized (
    select
        is_narrow and (select count(*) from near) < 2 * $7 and (select count(*) from near_events) < 2 * $7 as is_joined
    from span
)
select number, message
from (
    select
        number, message,
        sum(octet_length(message)) over (order by number rows between unbounded preceding and 1 preceding) as before
    from (
        -- Without "offset 0" a plan for whatever values expects few rows, and loops over them.
        select n.number, convert_to({message}, 'UTF8') as message
        from page n
        join (select * from near where (select is_joined from way) offset 0) c on c.xid = n.xid
        union all
        select n.number, null
        from page n
        join (select * from near_events where (select is_joined from way) offset 0) e on e.xid = n.xid
        union all
        (
            select n.number, w.message
            from streams.commit n
            join lateral (
                select convert_to({message}, 'UTF8') as message
                from streams.change c
                where c.xid = n.xid and c.xid >= $9::xid8 and c.xid < $10::xid8
                  and c.stream collate "C" = $2 and c.group_id collate "C" = $3 and ($4::text is null or c.id = $4)
                union all
                select null
                from streams.event e
                where e.xid = n.xid
                  and e.stream collate "C" = $2 and e.group_id collate "C" = $3 and ($4::text is null or e.id = $4)
            ) w on true
            where n.number between $5 and $6 and not (select is_joined from way)
            order by n.number
            limit $7
        )
        order by 1
        limit $7
    ) page
) paged
where coalesce(before, 0) < $8
order by number
