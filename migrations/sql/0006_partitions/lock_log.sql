-- The log, ACCESS EXCLUSIVE, until the migration commits: readers and writers wait. Taken or not, for which others are
-- waited half of deadlock_timeout (so that no writer is ended for our sake), 500 ms at most, again and again for half a
-- minute: whoever comes meanwhile waits no longer than that.
do $$
declare
    tries_left integer := 40;
    usual_timeout text := current_setting('lock_timeout');
begin
    perform set_config(
        'lock_timeout',
        (select least(500, greatest(1, s.setting::integer / 2)) || 'ms' from pg_settings s where s.name = 'deadlock_timeout'),
        true
    );
    loop
        begin
            lock table streams.commit, streams.change, streams.event in access exclusive mode;
            exit;
        exception when lock_not_available or deadlock_detected then
            tries_left := tries_left - 1;
            if tries_left = 0 then
                raise lock_not_available using
                    message = 'transactions that use the log (streams.change) did not end; nothing was changed',
                    hint = 'See pg_stat_activity for what uses it (pg_dump, say, or an autovacuum), end it, and migrate again.';
            end if;
            perform pg_sleep(0.25);
        end;
    end loop;
    perform set_config('lock_timeout', usual_timeout, true);
end
$$;
