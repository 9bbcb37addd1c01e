-- Undo 0007. The streams' functions go with the types that they answer. Called by its downgrade.
-- Locks: ACCESS EXCLUSIVE on the views of the streams' logs.
do $$
declare
    log_name text;
begin
    drop type streams._as_of_row, streams._diff_row cascade;
    for log_name in
        select '_' || s.table_name || '_log' from streams.stream s
    loop
        execute format('drop view if exists streams.%I', log_name);
    end loop;
    drop function streams.make_time_travel(text, text);
    drop function streams.grant_time_travel();
    drop function streams.span_of(bigint, bigint);
    drop function streams.span_of(timestamptz, timestamptz);
    drop function streams.position_of(bigint);
    drop function streams.position_of(timestamptz);
    drop function streams.floor();
end
$$;
