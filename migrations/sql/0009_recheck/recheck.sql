-- Have the rules asked again for the subscriptions that this is about, in every server process, once the caller's
-- transaction is committed. What is null says nothing; with nothing said it is about all. Called by whoever takes a right
-- away, in the transaction that does so:
--   select streams.recheck(subject => 'ada', stream => 'diary');
--
-- It says "ask again", and nothing else: a NOTIFY can be sent by everybody who is connected. So everybody may call this,
-- too, who has USAGE on the schema; it runs with its caller's rights.
--
-- A stream that there isn't is an error: a right that was to end would go on, by a slip of the pen. What doesn't fit in a
-- NOTIFY is about all; the transaction that takes the right away must not fail by that.
-- Locks: those of a NOTIFY; the one over the whole cluster's queue is held while the transaction is committed.
create function streams.recheck(subject text default null, stream text default null, group_id text default null)
returns void
language plpgsql
as $$
declare
    hint text;
begin
    if recheck.stream is not null and not exists (
        select from streams.stream s where s.name operator(pg_catalog.=) recheck.stream
    ) then
        raise undefined_object using
            message = pg_catalog.format('no stream is named %L', recheck.stream),
            hint = 'If it is declared, run scripts/migrate (installed: tidelog migrate).';
    end if;
    hint := pg_catalog.json_strip_nulls(
        pg_catalog.json_build_object('subject', recheck.subject, 'stream', recheck.stream, 'group', recheck.group_id)
    );
    -- The payload of a NOTIFY is shorter than 8000 bytes: https://www.postgresql.org/docs/current/sql-notify.html
    if pg_catalog.octet_length(hint) operator(pg_catalog.>) 7999 then
        hint := '{}';
    end if;
    perform pg_catalog.pg_notify('tidelog_recheck', hint);
end
$$;
