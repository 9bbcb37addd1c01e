-- Which indexes of an author's own were made for a stream, or are about to be: {name: as declared}. It is written before
-- an index is made, and after it was dropped: so no index of somebody else's is ever taken for one of these.
--
-- Locks: ACCESS EXCLUSIVE on streams.stream, to the end of the migration. Who sends events holds it to the end of his
-- transaction: he is waited for 500 ms at most, again and again for half a minute, and nobody waits longer than that.
do $$
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
            alter table streams.stream add column indexes jsonb not null default '{}';
            exit;
        exception when lock_not_available or deadlock_detected then
            tries_left := tries_left - 1;
            if tries_left = 0 then
                raise lock_not_available using
                    message = 'transactions that use streams.stream did not end; nothing was changed',
                    hint = 'See pg_stat_activity for what uses it, end it, and migrate again.';
            end if;
            perform pg_sleep(0.25);
        end;
    end loop;
    perform set_config('lock_timeout', usual_timeout, true);
end
$$;
