-- Where numbering goes on: the last commit's number and what its sequencer saw, null if nothing was numbered yet; and the
-- time that the next one comes after: never before the newest epoch began. (An epoch that began while the clock was
-- ahead counts only as far as the log may be ahead of it: see number_commits.sql.)
-- Called by a new sequencer. Locks: none.
select
    last.number,
    greatest(
        last.at,
        (select least(max(began_at), clock_timestamp() + interval '30 seconds') from streams.epoch)
    ) as at,
    last.snapshot::text as snapshot
from (select) one
left join (select number, at, snapshot from streams.commit order by number desc limit 1) last on true
