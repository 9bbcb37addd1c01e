-- What became of transaction $1 (xid8 as text) in the feed: `number` if it has one, `is_over` if it has ended, `has_rows` if it
-- has changes or events, `status` as pg_xact_status (which raises for an id that was not given out yet). One row.
-- Whether it has ended is asked of this statement's own snapshot, which decides which rows are seen, too. Locks: none.
select
    (select number from streams.commit where xid = $1::text::xid8) as number,
    pg_visible_in_snapshot($1::text::xid8, pg_current_snapshot()) as is_over,
    exists (select from streams.change where xid = $1::text::xid8)
        or exists (select from streams.event where xid = $1::text::xid8) as has_rows,
    pg_xact_status($1::text::xid8) as status
