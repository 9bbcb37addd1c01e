-- Who serves reads and raises the floors of streams. (A role that comes later gets this right with the others: grant_roles.sql.)
do $$
begin
    if streams.has_rights('tidelog_server') then
        grant select, insert, update on streams.stream_floor to tidelog_server;
    end if;
end
$$;
