-- Whether the transaction `xid` of the log has, or had, a number, by the newest commit (`head` its xid, `snapshot` its
-- snapshot): exactly those have one that were visible then, and all of the eras before. Null if there is no commit.
--
-- For changes without a commit: it tells those whose commit was removed, and which are left to be dropped with their
-- partition, from those that have no number yet.
--
-- Immutable, and one expression, so that it costs next to nothing for each row. Locks: none.
create function streams.was_numbered(xid xid8, head xid8, snapshot pg_snapshot) returns boolean
language sql
immutable
parallel safe
return case
    when xid < '281474976710656'::xid8 and (head < '281474976710656'::xid8 or head >= '9223372036854775808'::xid8)
        then pg_visible_in_snapshot(xid, snapshot)
    when head >= '9223372036854775808'::xid8 then xid >= '9223372036854775808'::xid8  -- see snapshot_bounds.sql
    when xid >= '9223372036854775808'::xid8 then head is not null
    when xid::text::bigint / 281474976710656 <> head::text::bigint / 281474976710656 then xid < head
    else pg_visible_in_snapshot((xid::text::bigint % 281474976710656)::text::xid8, snapshot)
end;
