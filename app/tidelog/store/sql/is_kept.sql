-- Whether commit $1, which was numbered, is still in the log. They go from the lowest: then all after it are, too.
--
-- Called after each page of past commits; floor.sql tells more, in twenty lookups. Locks: none.
select exists (select from streams.commit where number = $1)
