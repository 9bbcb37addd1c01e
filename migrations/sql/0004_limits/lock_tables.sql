-- The tables whose trigger this revision renames: ACCESS EXCLUSIVE on each stream's table, until the migration commits,
-- which is a moment later. It is what ALTER TRIGGER takes; readers and writers wait.
--
-- They are taken all or none, for which others are waited half of deadlock_timeout (so that no writer is ended for our
-- sake), 500 ms at most, again and again for half a minute: whoever comes meanwhile waits no longer than that.
do $$
declare
    tries_left integer := 40;
    usual_timeout text := current_setting('lock_timeout');
    wanted text;
begin
    select string_agg(t.tgrelid::regclass::text, ', ' order by t.tgrelid) into wanted
    from pg_trigger t
    where t.tgfoid = 'streams.complete_item()'::regprocedure and not t.tgisinternal;
    if wanted is null then
        return;
    end if;
    perform set_config(
        'lock_timeout',
        (select least(500, greatest(1, s.setting::integer / 2)) || 'ms' from pg_settings s where s.name = 'deadlock_timeout'),
        true
    );
    loop
        begin
            execute format('lock table %s in access exclusive mode', wanted);
            exit;
        exception when lock_not_available or deadlock_detected then
            tries_left := tries_left - 1;
            if tries_left = 0 then
                raise lock_not_available using
                    message = format('transactions that use %s did not end; nothing was changed', wanted),
                    hint = 'See pg_stat_activity for what uses them (pg_dump, say, or an autovacuum), end it, and migrate again.';
            end if;
            perform pg_sleep(0.25);
        end;
    end loop;
    perform set_config('lock_timeout', usual_timeout, true);
end
$$;
