-- A page of past commits in one group, or of its one item, each as the message that tells of it.
--
-- The message is an expression of a dialect over n (number, at), c (op, id, version, data) and its words $1, for a
-- commit of one change. A commit that has a second row has more of them, and one whose message is null sends events:
-- that is for read_commits.sql to tell. Every other commit is one row; one that changes nothing of the group is none.
--
-- $2 stream, $3 group, $4 item or null, $5 first number, $6 last number, $7 rows at most, $8 bytes of messages at
-- most (but one row at least); $9 and $10 the xids that they may have (xid_range.sql). The rows of one commit are in no order, so that a commit of a million changes costs
-- no more than a page of them. Locks: none.
select number, message
from (
    select
        number, message,
        sum(octet_length(message)) over (order by number rows between unbounded preceding and 1 preceding) as before
    from (
        select n.number, w.message
        from streams.commit n
        join lateral (
            select convert_to({message}, 'UTF8') as message
            from streams.change c
            where c.xid = n.xid and c.xid >= $9::xid8 and c.xid < $10::xid8 and c.stream collate "C" = $2 and c.group_id collate "C" = $3 and ($4::text is null or c.id = $4)
            union all
            select null
            from streams.event e
            where e.xid = n.xid and e.stream collate "C" = $2 and e.group_id collate "C" = $3 and ($4::text is null or e.id = $4)
        ) w on true
        where n.number between $5 and $6
        order by n.number
        limit $7
    ) page
) paged
where coalesce(before, 0) < $8
order by number
