-- The position that somebody names, for reading a stream as of it, and the stream's floor; with the newest commit, by which
-- streams.was_numbered tells what has no number yet: one row. Raises as the
-- functions of the same name without a stream (0007_time_travel/position_of.sql), and `position_too_old` from before
-- the stream's own floor.
-- Called by a stream's _as_of and _diff, once in each query. Locks: none.
create or replace function streams.position_of(
    "position" bigint, stream text,
    out number bigint, out floor bigint, out head xid8, out snapshot pg_snapshot
)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    lowest constant bigint := streams.floor($2);
begin
    select p.number into number from streams.position_of($1) p;
    if number < lowest then
        raise invalid_parameter_value using
            message = format('position %s of stream %s is not kept any more', number, $2), constraint = 'position_too_old',
            hint = format('The lowest that is kept is streams.floor(%L), %s now.', $2, lowest);
    end if;
    floor := lowest;
    select c.xid, c.snapshot into head, snapshot from streams.commit c order by c.number desc limit 1;
end
$$;

create or replace function streams.position_of(
    at timestamptz, stream text,
    out number bigint, out floor bigint, out head xid8, out snapshot pg_snapshot
)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    lowest constant bigint := streams.floor($2);
begin
    select p.number into number from streams.position_of($1) p;
    if number < lowest then
        raise invalid_parameter_value using
            message = format('the changes of stream %s at %s are not kept any more', $2, $1), constraint = 'position_too_old',
            hint = format('The lowest position that is kept is streams.floor(%L), %s now.', $2, lowest);
    end if;
    floor := lowest;
    select c.xid, c.snapshot into head, snapshot from streams.commit c order by c.number desc limit 1;
end
$$;
