-- Drop what the retention of streams is kept in, and have time travel do without. Called by the way back only, after the
-- functions of before were installed: where something was removed, who asks for what was before it isn't told.
do $$
begin
    perform streams.make_time_travel(s.name, s.table_name) from streams.stream s
    where to_regclass('streams._' || s.table_name || '_log') is not null;
    drop function streams.span_of(bigint, bigint, text);
    drop function streams.span_of(timestamptz, timestamptz, text);
    drop function streams.position_of(bigint, text);
    drop function streams.position_of(timestamptz, text);
    drop function streams.floor(text);
    drop table streams.stream_floor;
end
$$;
