-- Whether commit $1, which was numbered, is still in the log: they go from the lowest, then all after it are, too. And the
-- streams of which changes in it, or after it, were removed, each with its floor: up to where (stream_floor.sql).
--
-- Called after each page of past commits; floor.sql tells more, in twenty lookups. Locks: none.
select
    exists (select from streams.commit where number = $1) as is_kept,
    coalesce(array_agg(stream order by stream), '{}') as streams,
    coalesce(array_agg(number order by stream), '{}') as floors
from streams.stream_floor
where number >= $1
