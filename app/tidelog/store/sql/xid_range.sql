-- Which transactions the commits from number $1 on may be: those with an xid from low on, below high. So the partitions of the
-- log that hold none of them are not looked at.
--
-- Below xmin of what the sequencer saw when it ended the batch before, everything has an earlier number. What is numbered
-- now is visible, and so below xmax of what is seen now; but for a log that was adopted before there were eras.
--
-- Called before each page of past commits. Locks: none.
select
    coalesce(
        (
            select streams.snapshot_xmin(before.xid, before.snapshot)
            from streams.commit before
            where before.number < $1 and before.snapshot is not null
            order by before.number desc limit 1
        ),
        '0'
    ) as low,
    case
        when (select first.xid from streams.commit first where first.number >= $1 order by first.number limit 1)
            >= '9223372036854775808'::xid8
        then '18446744073709551615'
        else streams.in_log(pg_snapshot_xmax(pg_current_snapshot()))
    end as high
