-- The floor of a stream: the lowest position from which all of its changes are in the log. 0 where nothing was removed, else
-- the last commit that was removed, or of which a change of this stream was, whichever is later. A stream that nobody
-- knows has the log's.
--
-- What was before it may be there in part: the last changes of items. So a state as of an earlier position can't be told.
--
-- It runs with its owner's rights, as streams.floor(). It tells nothing but the number.
-- Called by people, and by reads of the past. Locks: none.
create or replace function streams.floor(stream text) returns bigint
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select greatest(streams.floor(), (select f.number from streams.stream_floor f where f.stream = $1))
$$;
