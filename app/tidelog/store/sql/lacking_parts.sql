-- What the tables $1 (text[]) lack, beside what examine_streams.sql tells: what makes their items expire after $2 seconds
-- (double precision[], null for never); what make_time_travel.sql makes for them. Null if nothing. A table that isn't
-- there lacks everything. Called at every start. Locks: none.
select
    declared.stream_table,
    coalesce(
        streams.lacks_expiry(declared.stream_table, declared.ttl_seconds),
        case when made.names <> array['_as_of', '_as_of', '_diff', '_diff', '_log'] then
            format('streams.%I has no whole time travel (_as_of, _diff)', declared.stream_table)
        end
    )
from unnest($1::text[], $2::double precision[]) as declared (stream_table, ttl_seconds)
cross join lateral (
    select coalesce(array_agg(t.suffix order by t.suffix), '{}') as names
    from streams.time_travel_of(declared.stream_table) t
) as made
