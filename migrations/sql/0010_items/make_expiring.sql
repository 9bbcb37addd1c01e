-- Give the table of a stream what makes its items expire, as far as it lacks it: a column, null for an item that stays; the
-- stream's own time to live as the column's default, so that it holds for whoever writes; an index of those that expire,
-- by which expire_items.sql finds them. An item that stays costs nothing by it: a null takes no room in the row, and is
-- in no index. Answers what was done, null if nothing.
--
-- Called by every migration, for every stream's table.
-- Locks: none if nothing is lacking. ACCESS EXCLUSIVE on the table else, until the migration commits; the index reads all of
-- the table, once. It is waited for as in 0004_limits/lock_tables.sql: half of deadlock_timeout at a time, so that no
-- writer is ended for our sake, for ten seconds in all.
create or replace function streams.make_expiring(stream_table text, ttl_seconds double precision) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    lacks constant text := streams.lacks_expiry(stream_table, ttl_seconds);
    usual_timeout constant text := current_setting('lock_timeout');
    tries_left integer := 20;
begin
    if lacks is null then
        return null;
    end if;
    perform set_config(
        'lock_timeout',
        (select least(500, greatest(1, s.setting::integer / 2)) || 'ms' from pg_settings s where s.name = 'deadlock_timeout'),
        true
    );
    loop
        begin
            execute format('lock table streams.%I in access exclusive mode', stream_table);
            exit;
        exception when lock_not_available or deadlock_detected then
            tries_left := tries_left - 1;
            if tries_left = 0 then
                raise lock_not_available using
                    message = format('transactions that use streams.%I did not end; nothing was changed', stream_table),
                    hint = 'See pg_stat_activity for the transactions that are open, and migrate again.';
            end if;
            perform pg_sleep(0.25);
        end;
    end loop;
    perform set_config('lock_timeout', usual_timeout, true);

    if lacks like '%is somebody''s own' then
        raise duplicate_column using
            message = lacks || ', and Tidelog needs the name for when items are to be deleted',
            hint = format('rename it: `alter table streams.%I rename column expires_at to %I;`', stream_table, 'expires');
    end if;
    execute format('alter table streams.%I add column if not exists expires_at timestamptz', stream_table);
    execute format(
        'comment on column streams.%I.expires_at is %L', stream_table, 'When Tidelog deletes the item; null: never'
    );
    if ttl_seconds is null then
        execute format('alter table streams.%I alter column expires_at drop default', stream_table);
    else
        execute format(
            'alter table streams.%I alter column expires_at set default clock_timestamp() + %L::interval',
            stream_table, ttl_seconds * interval '1 second'
        );
    end if;
    if streams.lacks_expiry(stream_table, ttl_seconds) is not null then
        execute format('create index on streams.%I (expires_at) where expires_at is not null', stream_table);
    end if;
    return lacks || ': mended';
end
$$;
