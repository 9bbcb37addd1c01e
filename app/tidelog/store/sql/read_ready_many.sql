-- A page of past commits in many groups, each as the message that tells of it: read_ready.sql for a connection that
-- subscribed to all of them.
--
-- $1 the words of each group, as {"stream": {"group": [first, second]}}, or null in their place where no message is
-- ready (its rows have none). They are looked up in a sorted object: a thousand groups are ten comparisons for a row.
-- $2 first number, $3 last number, $4 rows at most, $5 bytes of messages at most (but one row at least); $6 and $7 the xids
-- that they may have (xid_range.sql).
--
-- Rows are numbers and messages as those of read_ready.sql: a commit of one change in one of the groups is one row, any
-- other has more rows, or one without a message. Locks: none.
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
            cross join lateral (
                select case when jsonb_typeof(wanted) = 'array' then array[wanted ->> 0, wanted ->> 1] end as words, wanted
                from (select $1::jsonb -> c.stream -> c.group_id as wanted offset 0) looked_up
                offset 0  -- looked up and put together once for a row, whatever the message does with it
            ) given
            where c.xid = n.xid and c.xid >= $6::xid8 and c.xid < $7::xid8 and given.wanted is not null
            union all
            select null
            from streams.event e
            where e.xid = n.xid and $1::jsonb -> e.stream -> e.group_id is not null
        ) w on true
        where n.number between $2 and $3
        order by n.number
        limit $4
    ) page
) paged
where coalesce(before, 0) < $5
order by number
