-- What streams.send needs, which runs with its caller's rights: to put a row's own columns into streams.event, where
-- check_event looks at them, and to find the stream. No default is changed and no table rewritten: that would lock out
-- those who read.
create trigger check_event before insert on streams.event
    for each row execute function streams.check_event();

grant insert (seq, stream, group_id, id, type, data) on streams.event to public;

grant select (name, table_name) on streams.stream to public;
