-- The xids of a commit's snapshot as the log has them: in the era of the commit. (Commits from 2^63 on were adopted before
-- there were eras; the snapshot on the last of them is of era 0.)
--
-- Every transaction below xmin had ended; none from xmax on had. So a commit that comes after this one in the feed, and
-- after its batch, has an xid from xmin on; and one with an xid from xmax on comes after it.
--
-- Immutable, as they are in an index. Locks: none.
create function streams.snapshot_xmin(xid xid8, snapshot pg_snapshot) returns xid8
language sql
immutable
return case
    when xid < '281474976710656'::xid8 or xid >= '9223372036854775808'::xid8 then pg_snapshot_xmin(snapshot)
    else (
        xid::text::bigint / 281474976710656 * 281474976710656 + pg_snapshot_xmin(snapshot)::text::bigint
    )::text::xid8
end;

create function streams.snapshot_xmax(xid xid8, snapshot pg_snapshot) returns xid8
language sql
immutable
return case
    when xid < '281474976710656'::xid8 or xid >= '9223372036854775808'::xid8 then pg_snapshot_xmax(snapshot)
    else (
        xid::text::bigint / 281474976710656 * 281474976710656 + pg_snapshot_xmax(snapshot)::text::bigint
    )::text::xid8
end;
