-- Send an ephemeral event to a group's subscribers (or, with an id, to an item's too), with the caller's
-- transaction: after its changes, never if it rolls back. Called by steps, and by anybody in SQL:
--   select streams.send('chatMessage', 'general', null, 'typing', '{"author": "ada"}');
-- Locks: the doorbell's.
create function streams.send(stream text, group_id text, id text, type text, data jsonb) returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into streams.event (stream, group_id, id, type, data)
    values (send.stream, send.group_id, send.id, send.type, send.data);
    perform streams.ring_doorbell();
end
$$;
