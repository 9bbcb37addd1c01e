-- What the tables $1 (text[]) lack so that their items expire after $2 seconds (double precision[], null for never): null
-- if nothing. A table that isn't there lacks everything. Called at every start. Locks: none.
select declared.stream_table, streams.lacks_expiry(declared.stream_table, declared.ttl_seconds)
from unnest($1::text[], $2::double precision[]) as declared (stream_table, ttl_seconds)
