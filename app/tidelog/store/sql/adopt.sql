-- Make the log of another cluster this one's own. One row: what was done.
--
-- The xids in it mean nothing here: this server will give out, or has given out, the same ones again. So every
-- commit's xid becomes 2^63 + its number, which no server ever gives out, and all that compares xids leaves
-- those from 2^63 on aside. Order, numbers and times of the commits stay as they are.
--
-- The leftovers are numbered: what the old cluster's sequencer had not numbered yet, and what was written here
-- since. Such a transaction may have the xid of a numbered one; its writes are then those after the numbered
-- one's last (last_seq), because a restored sequence goes on after everything in the dump.
--
-- The newest commit gets the snapshot of this statement: numbering goes on from here. Events are ephemeral,
-- and what was under way when the dump was made is gone.
--
-- Called by scripts/adopt in a transaction that holds the sequencer's lock, and streams.change in SHARE ROW
-- EXCLUSIVE mode: no writer is half-way, and none can begin.
with
head as materialized (
    select coalesce(max(number), 0) as number, coalesce(max(at), '-infinity') as at from streams.commit
),
leftover as materialized (
    select
        c.xid,
        max(c.seq) as last_seq,
        row_number() over (order by max(c.seq)) as place,
        count(*) over () as total
    from streams.change c
    where c.xid < '9223372036854775808'::xid8
      and not exists (select from streams.commit n where n.xid = c.xid and c.seq <= n.last_seq)
    group by c.xid
),
clock as materialized (
    select case  -- as in number_commits.sql
        when head.at > clock_timestamp() + interval '30 seconds' then clock_timestamp()
        else greatest(clock_timestamp(), head.at + interval '10 microseconds')
    end as at
    from head
),
numbered_changes as (
    update streams.change c set xid = (9223372036854775808 + n.number)::text::xid8
    from streams.commit n
    where n.xid = c.xid and c.seq <= n.last_seq and c.xid < '9223372036854775808'::xid8
    returning 1
),
leftover_changes as (
    update streams.change c set xid = (9223372036854775808 + head.number + l.place)::text::xid8
    from leftover l, head
    where l.xid = c.xid
      and not exists (select from streams.commit n where n.xid = c.xid and c.seq <= n.last_seq)
    returning 1
),
commits as (
    update streams.commit n
    set xid = (9223372036854775808 + n.number)::text::xid8,
        snapshot = case
            when n.number = head.number and not exists (select from leftover) then pg_current_snapshot()
        end
    from head
    where n.xid < '9223372036854775808'::xid8 or n.snapshot is not null
    returning 1
),
leftover_commits as (
    insert into streams.commit (number, xid, last_seq, at, snapshot)
    select
        head.number + place,
        (9223372036854775808 + head.number + place)::text::xid8,
        last_seq,
        clock.at + (place - 1) * interval '10 microseconds',
        case when place = total then pg_current_snapshot() end
    from leftover, head, clock
    returning 1
),
events as (
    delete from streams.event returning 1
)
select
    (select number from head) as head,
    (select count(*) from commits) as commits,
    (select count(*) from numbered_changes) as changes,
    (select count(*) from leftover_commits) as leftover_commits,
    (select count(*) from leftover_changes) as leftover_changes,
    (select count(*) from events) as events
