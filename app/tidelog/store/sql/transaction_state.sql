-- What became of transaction $1 (xid8 as text) in the feed: `number` if it has one, `is_over` if it has ended, `has_rows` if it
-- has changes or events, `status` as pg_xact_status, which raises for an id that was not given out yet, but for those that
-- never are: `unknown`. One row. The cluster knows it without the log's era; one of an earlier era has ended. Whether it has
-- ended is asked of this statement's own snapshot, which decides which rows are seen, too. Locks: none.
select
    (select number from streams.commit where xid = $1::text::xid8) as number,
    case when here.xid < 0 then true else pg_visible_in_snapshot(here.xid::text::xid8, pg_current_snapshot()) end as is_over,
    exists (select from streams.change where xid = $1::text::xid8)
        or exists (select from streams.event where xid = $1::text::xid8) as has_rows,
    case
        when here.xid < 0 then 'committed'
        when here.xid % 4294967296 < 3 then 'unknown'  -- no transaction has such a one
        else pg_xact_status(here.xid::text::xid8)
    end as status
from (select $1::text::numeric - streams.in_log('0')::text::numeric as xid) here
