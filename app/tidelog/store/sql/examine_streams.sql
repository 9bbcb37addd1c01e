-- What is wrong with the streams of names $1 and tables $2 (text[]): a row for each trouble (see streams.examine,
-- and streams.examine_own, of this role), and whether the stream has no table. Called at every start. Locks: none.
select declared.name, to_regclass(format('streams.%I', declared.stream_table)) is null, x.severity, x.trouble, x.remedy
from unnest($1::text[], $2::text[]) as declared (name, stream_table)
cross join lateral (
    select * from streams.examine(declared.name, declared.stream_table)
    union all
    select * from streams.examine_own(declared.stream_table)
) x
order by declared.name
