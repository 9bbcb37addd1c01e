-- The position that somebody names, by a number or by a time, and the floor: one row. Raises invalid_parameter_value where
-- reads can't start, with the cause as the error's constraint: `position_too_old`, `position_foreign`, `position_invalid`.
--
-- A number is from the floor to the head. A time is that of the last commit at or before it; one of before the oldest kept
-- commit is too old, unless nothing was removed: then it is position 0, before everything. A time that is still to come is
-- the head, as clocks differ.
--
-- It runs with its owner's rights, see floor.sql. Called by a stream's _as_of and _diff, once in each query.
-- Locks: none.
create or replace function streams.position_of("position" bigint, out number bigint, out floor bigint)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    given constant bigint := $1;
    head constant bigint := coalesce((select c.number from streams.commit c order by c.number desc limit 1), 0);
    lowest constant bigint := streams.floor();
begin
    if given is null or given < 0 then
        raise invalid_parameter_value using
            message = format('%s is no position', coalesce(given::text, 'null')), constraint = 'position_invalid',
            hint = 'A position is the number of a commit, or 0: before everything.';
    elsif given < lowest then
        raise invalid_parameter_value using
            message = format('position %s is not kept any more', given), constraint = 'position_too_old',
            hint = format('The lowest that is kept is streams.floor(), %s now.', lowest);
    elsif given > head then
        raise invalid_parameter_value using
            message = format('position %s is ahead of the last commit, %s', given, head), constraint = 'position_foreign',
            hint = 'It is of another database''s history, or the commit has no number yet.';
    end if;
    position_of.number := given;
    position_of.floor := lowest;
end
$$;

create or replace function streams.position_of(at timestamptz, out number bigint, out floor bigint)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    given constant timestamptz := $1;
    lowest constant bigint := streams.floor();
    low bigint := lowest;  -- is at or before the time; `high` and what is below it may be
    high bigint := coalesce((select c.number from streams.commit c order by c.number desc limit 1), 0);
    middle bigint;
begin
    if given is null then
        raise invalid_parameter_value using message = 'null is no time', constraint = 'position_invalid';
    end if;
    while low < high loop
        middle := (low + high + 1) / 2;
        if (select c.at <= given from streams.commit c where c.number = middle) then
            low := middle;
        else
            high := middle - 1;
        end if;
    end loop;
    if low = lowest and lowest > 0 then
        raise invalid_parameter_value using
            message = format('the commits of %s are not kept any more', given), constraint = 'position_too_old',
            hint = format('The oldest kept commit is of %s.',
                (select c.at from streams.commit c where c.number = lowest + 1));
    end if;
    position_of.number := low;
    position_of.floor := lowest;
end
$$;
