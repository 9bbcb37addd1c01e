-- Leaves a session as it was opened: what a step's SQL set, locked, listened to or made in it reaches nobody else.
--
-- It is DISCARD ALL, but for three things. Statements that the driver prepared are kept, as it goes on using them, and
-- only those that SQL made (PREPARE) go. A role that the server gives to each session (ALTER ROLE ... SET role) comes
-- back, which RESET SESSION AUTHORIZATION alone takes away. And plans are kept.
-- https://www.postgresql.org/docs/current/sql-discard.html
--
-- Run after a step that used context.db, outside of any transaction. Locks: none; releases the session's advisory locks.
reset session authorization;
reset role;
reset all;
close all;
unlisten *;
select pg_advisory_unlock_all();
do $$
declare
    made_by_sql text;
begin
    for made_by_sql in select name from pg_prepared_statements where from_sql loop
        execute format('deallocate %I', made_by_sql);
    end loop;
end
$$;
discard temp;
discard sequences;
