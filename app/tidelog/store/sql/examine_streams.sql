-- What is wrong with the streams of names $1 and tables $2 (text[]): a row for each trouble (see streams.examine), and
-- whether the stream has no table. Called at every start. Locks: none.
select declared.name, to_regclass(format('streams.%I', declared.stream_table)) is null, x.severity, x.trouble, x.remedy
from unnest($1::text[], $2::text[]) as declared (name, stream_table)
cross join lateral streams.examine(declared.name, declared.stream_table) x
order by declared.name
