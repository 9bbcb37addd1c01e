-- Lock a table for those who change it, to the end of the transaction. Others are waited for half of deadlock_timeout (so
-- that no writer is ended for our sake), 500 ms at most, again and again for half a minute: who comes meanwhile waits no
-- longer than that. Raises lock_not_available if it can't be had.
--
-- Called by convert_keys, rename_stream, drop_stream. Locks: the one that is asked for.
create function streams.lock_patiently(table_name text, mode text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    tries_left integer := 40;
    usual_timeout constant text := current_setting('lock_timeout');
begin
    perform set_config(
        'lock_timeout',
        (select least(500, greatest(1, s.setting::integer / 2)) || 'ms' from pg_settings s where s.name = 'deadlock_timeout'),
        true
    );
    loop
        begin
            execute format('lock table streams.%I in %s mode', table_name, mode);
            exit;
        exception when lock_not_available or deadlock_detected then
            tries_left := tries_left - 1;
            if tries_left = 0 then
                raise lock_not_available using
                    message = format('transactions that use streams.%I did not end; nothing was changed', table_name),
                    hint = 'See pg_stat_activity for what uses it (pg_dump, say), end it, and try again.';
            end if;
            perform pg_sleep(0.25);
        end;
    end loop;
    perform set_config('lock_timeout', usual_timeout, true);
end
$$;
