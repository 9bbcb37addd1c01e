-- Give the next numbers to every transaction that became visible since the last look.
--
-- $1 snapshot of the last look (text), $2 head number, $3 the head's time, $4 how many rows "written" may have, $5
-- how many of them may be told of whole, $6 whether the head is told by NOTIFY. Answers one row: how many were numbered, the new head, its time, this
-- statement's snapshot, which is $1 of the next call; whether there were too many rows, and nothing was done; and
-- what was numbered, with the columns of read_commits.sql, as a JSON array of arrays, if it is at most $5 rows and
-- 16 kB.
--
-- Whatever rows hold, telling of them must not fail, or take long: nobody would get a number any more. So their sizes are
-- added up before anything is made of them: of texts the length, which is known without reading them; of data what is
-- stored, and then, as that may be compressed, what it is without (data || '{}' is the plainest that undoes it). 16 kB of
-- that are at most 200 MB as text, where all is numbers of 147 kB, and less than a second.
--
-- xids of a snapshot are the cluster's, those of the log have an era before them: streams.in_log puts it there. What the
-- partitions of the log are chosen by is plain in each condition on it, as it can be known before the first row: from xmin
-- of the last look on, below xmax of this one. (`xid = any (...)` by itself would have each of them looked at.)
--
-- Where "written" is in braces below goes the text of written_few.sql or of written_many.sql; for {change}, {low} and {high} see
-- app/tidelog/store/window.py. `is_outside` tells that there may be more than lies between those two: then nothing was done.
--
-- Tailing a sequence ("seq > the last I saw") loses rows: a number is drawn when a row is written, not when
-- it commits, so a transaction that drew 5 may commit after one that drew 9 was read. Waiting until nothing
-- older runs (the xmin horizon) loses nothing, but one open transaction then holds up everybody. So the
-- question is asked of snapshots: a transaction is new if it was not visible in the last one and is now.
-- Not visible then means its xid was yet to come (>= xmax) or was in progress (in xip); visible now is what
-- the table scan itself sees. It must be one plain statement: all its parts then share one snapshot, the
-- one that pg_current_snapshot() tells.
--
-- Those in progress then are asked for only if they ended meanwhile, and were not rolled back: the rows of
-- an open bulk load would otherwise be looked at (and found invisible) at every call.
--
-- The order is that of each transaction's last write, max(seq). Two transactions that wrote one item did so
-- one after the other, by its row lock, so the later one's last write is later, whatever else it wrote
-- before. By min(seq) it may have touched another item first, and the item's changes would be swapped.
--
-- Times grow from commit to commit by 10 microseconds at least, whatever the clock does: clients that order by time need
-- the room. So the log may run ahead of the clock, after that was set back or after very many commits at once; but by no
-- more than 30 seconds (a batch of three million). If it is further ahead, the clock was wrong when the last commit was
-- numbered, and the log takes the clock's time again. The order of commits is that of their numbers, always.
--
-- Without its NOTIFY (where the queue is filling: notify_queue.py) readers find the head by polling.
--
-- Locks: none that a writer could wait for. Called by the sequencer, which is alone; the unique keys of
-- streams.commit stop a second one.
with recursive
asked as materialized (
    select
        streams.in_log(pg_snapshot_xmin($1::text::pg_snapshot)) < {low}
        or streams.in_log(pg_snapshot_xmax(pg_current_snapshot())) > {high} as is_outside
),
ended as materialized (
    select array(
        select streams.in_log(x) from pg_snapshot_xip($1::text::pg_snapshot) as x
        where pg_visible_in_snapshot(x, pg_current_snapshot()) and pg_xact_status(x) is distinct from 'aborted'
    ) as xids
),
{written}
fresh as (
    select
        xid,
        max(seq) as last_seq,
        row_number() over (order by max(seq)) as place,
        count(*) over () as total,
        sum(count(*)) over () as row_count,
        sum(count(*)) over () >= $4::bigint as is_too_much
    from written
    group by xid
),
clock as materialized (
    select case
        when $3::timestamptz > clock_timestamp() + interval '30 seconds' then clock_timestamp()
        else greatest(clock_timestamp(), $3::timestamptz + interval '10 microseconds')
    end as at
),
numbered as (
    insert into streams.commit (number, xid, last_seq, at, snapshot)
    select
        $2::bigint + place,
        xid,
        last_seq,
        clock.at + (place - 1) * interval '10 microseconds',
        case when place = total then pg_current_snapshot() end
    from fresh cross join clock
    where not is_too_much and not (select is_outside from asked)
    returning number, xid, at
),
head as (
    select count(*) as numbered, max(number) as number, max(at) as at from numbered
),
row_of_numbered as (
    select n.number, n.xid, n.at, w.kind, w.seq, w.stream, w.group_id, w.id, w.op, w.version, w.data,
        octet_length(w.stream) + octet_length(w.group_id) + coalesce(octet_length(w.id), 0) + octet_length(w.op)
            as size_beside
    from numbered n
    cross join lateral (
        select 'change' as kind, c.seq, c.stream, c.group_id, c.id, c.op, c.version, c.data
        from {change} c
        where c.xid = n.xid
          and c.xid >= streams.in_log(pg_snapshot_xmin($1::text::pg_snapshot))
          and c.xid < streams.in_log(pg_snapshot_xmax(pg_current_snapshot()))
        union all
        select 'event', e.seq, e.stream, e.group_id, e.id, e.type, 0, e.data
        from streams.event e
        where e.xid = n.xid
    ) w
    where (select row_count from fresh limit 1) <= $5::bigint
),
told as (
    select case
        when sum(octet_length(text) + size_beside) <= 16384
        then json_agg(
            json_build_array(
                number, xid::text::bigint, (extract(epoch from at) * 1000)::float8,
                kind, seq, stream, group_id, id, op, version, text
            )
            order by number, seq
        )
    end as rows
    from (select *, data::text as text from row_of_numbered offset 0) as row_with_text
    where case
        when (select sum(pg_column_size(data) + size_beside) from row_of_numbered) <= 16384
        then (select sum(pg_column_size(data || '{}')) from row_of_numbered) <= 16384
    end
)
select
    numbered,
    number,
    at,
    pg_current_snapshot()::text as snapshot,
    coalesce((select is_too_much from fresh limit 1), false) as is_too_much,
    (select is_outside from asked) as is_outside,
    case when $5 > 0 and numbered between 1 and $5 then (select rows from told) end as rows,
    case when numbered > 0 and $6::boolean then pg_notify('tidelog_head', number::text) end
from head
