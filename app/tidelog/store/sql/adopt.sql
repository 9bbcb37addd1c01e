-- Number what the log of another cluster has without a number, and begin the next era of xids ($1 the first transaction of
-- the one for the leftovers, $2 of the one that goes on from here). One row: what was done.
--
-- The xids in the log mean nothing here: this server will give out, or has given out, the same ones again. So what is
-- written from now on is of a new era (migrations/sql/0006_partitions/transaction_id.sql), and no row is touched.
--
-- But the leftovers: what the old cluster's sequencer had not numbered yet, and what was written here since. The former
-- aren't visible in the last commit's snapshot; the latter have one of this cluster's xids, and come after the last commit in the
-- order of writes, as a restored sequence goes on after everything in the dump. Such a transaction may have the xid of a
-- numbered one; its writes are then those after the numbered one's last (last_seq).
--
-- The last commit is one without changes, of the new era: it has the snapshot of this statement, and numbering goes on from
-- it. Events are ephemeral, and what was under way when the dump was made is gone.
--
-- Called by scripts/adopt in a transaction that holds the sequencer's lock, and streams.change and streams.event in ACCESS
-- EXCLUSIVE mode: no writer is half-way, and none can begin.
with
head as materialized (
    select
        coalesce(max(number), 0) as number,
        coalesce(max(at), '-infinity') as at,
        coalesce(max(last_seq), 0) as last_seq,
        (array_agg(xid))[1] as xid,
        (array_agg(snapshot))[1] as snapshot
    from (select number, at, last_seq, xid, snapshot from streams.commit order by number desc limit 1) last
),
unnumbered as materialized (
    select c.xid, c.seq
    from (
        select xid, seq from streams.change c
        where xid >= streams.numbered_below() and xid < $1::bigint::text::xid8
          and not coalesce((select streams.was_numbered(c.xid, head.xid, head.snapshot) from head), false)
        union
        select xid, seq from streams.change
        where xid >= streams.in_log('0') and xid < streams.in_log(pg_snapshot_xmax(pg_current_snapshot()))
          and seq > (select last_seq from head)
    ) c
    where not exists (select from streams.commit n where n.xid = c.xid and c.seq <= n.last_seq)
),
leftover as materialized (
    select xid, max(seq) as last_seq, row_number() over (order by max(seq)) as place from unnumbered group by xid
),
clock as materialized (
    select case  -- as in number_commits.sql
        when head.at > clock_timestamp() + interval '30 seconds' then clock_timestamp()
        else greatest(clock_timestamp(), head.at + interval '10 microseconds')
    end as at
    from head
),
leftover_changes as (
    update streams.change c set xid = ($1::bigint + l.place)::text::xid8
    from leftover l join unnumbered u on u.xid = l.xid
    where c.xid = u.xid and c.seq = u.seq
    returning 1
),
leftover_commits as (
    insert into streams.commit (number, xid, last_seq, at)
    select
        head.number + place,
        ($1::bigint + place)::text::xid8,
        leftover.last_seq,
        clock.at + (place - 1) * interval '10 microseconds'
    from leftover, head, clock
    returning 1
),
last as (
    insert into streams.commit (number, xid, last_seq, at, snapshot)
    select
        head.number + count(place) + 1,
        $2::bigint::text::xid8,
        greatest(head.last_seq, max(leftover.last_seq)),
        clock.at + count(place) * interval '10 microseconds',
        pg_current_snapshot()
    from head cross join clock left join leftover on true
    group by head.number, head.last_seq, clock.at
    returning 1
),
events as (
    delete from streams.event returning 1
)
select
    (select number from head) as kept,
    (select count(*) from leftover_commits) as leftover_commits,
    (select count(*) from leftover_changes) as leftover_changes,
    (select count(*) from events) as events
