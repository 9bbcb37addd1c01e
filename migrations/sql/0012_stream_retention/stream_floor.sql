-- Of each stream that keeps less than the log does (`retention` in its config): how far its changes were removed. A stream
-- without a row has all that the log has.
--
-- `number` is its floor: the last commit of which a change of it was removed (0: none). Changes of before may still be there, the
-- last ones of items, say; all of after it are. It is raised in the transaction that removes, so whoever has read a
-- page of the log, and then finds the floor below it, has read all.
-- `walked` and `rule` are where removal goes on: all commits up to it were looked through by that rule.
--
-- Written by the housekeeper (app/tidelog/store/sql/remove_old_changes.sql, remove_all_but_last.sql). Locks: none that
-- anybody could wait for.
do $$
begin
    if to_regclass('streams.stream_floor') is not null then
        raise duplicate_table using
            message = 'the name streams.stream_floor, which Tidelog needs, is taken; nothing was changed',
            hint = 'Declare the stream of that table under another name, copy its items, drop the table, and migrate again.';
    end if;
    create table streams.stream_floor (
        stream text   collate "C" primary key,
        number bigint not null default 0,
        walked bigint not null default 0,
        rule   text   not null default ''
    );
end
$$;
