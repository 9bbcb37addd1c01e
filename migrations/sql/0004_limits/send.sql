-- Send an ephemeral event to a group's subscribers (or, with an id, to an item's too), with the caller's
-- transaction: after its changes, never if it rolls back. Called by steps, and by anybody in SQL:
--   select streams.send('chatMessage', 'general', null, 'typing', '{"author": "ada"}');
--
-- It runs with its caller's rights, as only then it is known whose they are, also below SET ROLE and in functions that
-- run with their owner's. What that role may put into streams.event is checked there (check_event.sql).
-- Locks: the doorbell's (see streams.ring_doorbell, repeated here to save a call).
create or replace function streams.send(stream text, group_id text, id text, type text, data jsonb) returns void
language plpgsql
as $$
begin
    -- One statement, as each costs: the stream is looked up in it. check_event draws the seq.
    insert into streams.event (seq, stream, group_id, id, type, data)
    select 0, s.name, send.group_id, send.id, send.type, send.data
    from streams.stream s
    where s.name operator(pg_catalog.=) send.stream;
    if not found then
        raise undefined_object using
            message = pg_catalog.format('no stream is named %L', send.stream),
            hint = 'If it is declared, run scripts/migrate (installed: tidelog migrate).';
    end if;
    if not pg_catalog.pg_try_advisory_xact_lock_shared(1953064044, 2)
        and pg_catalog.pg_notification_queue_usage() operator(pg_catalog.<) 0.5
    then
        perform pg_catalog.pg_notify('tidelog_doorbell', '');
    end if;
end
$$;
