-- Whether backend $1 works on a statement, or waits for a lock. If its client waits for an answer and it does not, then
-- the statement or the answer was lost on the way. Unknown (track_activities is off, or it took another role) counts as
-- work.
--
-- Called for a connection on which a step's statement has got no answer for seconds. Locks: none.
select exists (select from pg_stat_activity where pid = $1 and (state like 'idle%') is not true)
